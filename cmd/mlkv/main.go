// Command mlkv converts GPT-NeoX checkpoints into MLKV checkpoints, uptrains
// them, evaluates them and measures what was saved.
package main

func main() {}
