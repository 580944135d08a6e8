//go:build !cgo

package sandbox

// Cgo says that this binary was built with cgo, so that Enter refuses.
const Cgo = false
