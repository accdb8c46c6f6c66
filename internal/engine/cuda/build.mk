# What the CUDA engine needs to be compiled by gcc without a CUDA toolkit.
# Include it and add $(CUDA_TAGS) to the build tags: it stays empty where there
# is no C compiler or the system is not Linux on x86-64 or arm64. The tag is not
# "cuda": with that one gorgonia compiles an engine of its own, which needs cuDNN.
#
# include/ holds the cuda.h that gorgonia.org/cu is compiled with. link/ holds an
# archive without members that stands for cu's -lcuda: gpu/driver.c defines the
# driver's functions, which is why cgo, linking cu alone to look at its imports,
# must not mind that they are unresolved.
CUDA_ROOM := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
CUDA_CC := $(shell command -v $${CC:-gcc} 2>/dev/null)
CUDA_HOST := $(filter Linux/x86_64 Linux/aarch64,$(shell uname -s)/$(shell uname -m))

ifneq ($(and $(CUDA_CC),$(CUDA_HOST)),)
# Not "cuda": that tag switches on the CUDA engine of gorgonia itself.
CUDA_TAGS := gpu
export CGO_ENABLED := 1
export CGO_CFLAGS := -g -O2 -I$(CUDA_ROOM)/include
export CGO_LDFLAGS := -g -O2 -L$(CUDA_ROOM)/link -Wl,--unresolved-symbols=ignore-in-object-files
else
CUDA_TAGS :=
endif
