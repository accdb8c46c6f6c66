//go:build gpu && cgo && linux && (amd64 || arm64)

package gpu

// #include <cuda.h>
import "C"

import (
	"fmt"
	"reflect"
)

// check turns a driver's result into an *Error, nil on success.
func check(call string, r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	return driverError(call, int(r))
}

// wrap turns an error of package cu, whose type is a hidden integer, into an
// *Error; other errors are wrapped.
func wrap(call string, err error) error {
	if err == nil {
		return nil
	}
	if v := reflect.ValueOf(err); v.Kind() == reflect.Int {
		return driverError(call, int(v.Int()))
	}
	return fmt.Errorf("%s: %w", call, err)
}

func driverError(call string, code int) error {
	e := &Error{Call: call, Code: code, Name: "unknown CUDA error"}
	var s *C.char
	if C.cuGetErrorName(C.CUresult(code), &s) == C.CUDA_SUCCESS && s != nil {
		e.Name = C.GoString(s)
	}
	if C.cuGetErrorString(C.CUresult(code), &s) == C.CUDA_SUCCESS && s != nil {
		e.Detail = C.GoString(s)
	}
	return e
}
