/* Opens libcuda.so.1 and resolves its functions; NULL, or why it failed. */
const char *mlkv_driver_load(void);
