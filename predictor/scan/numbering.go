package scan

import (
	"slices"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/object"
	"forefend.dev/forefend/runtime/rootfs"
)

// loaders are where the dynamic linkers of architectures lie whose programs a kernel for x86-64 or arm64 runs beside its own.
var loaders = []string{
	"/lib/ld-linux.so.2", "/lib/ld-musl-i386.so.1", "/libx32/ld-linux-x32.so.2", "/lib/ld-musl-x32.so.1",
	"/lib/ld-linux-armhf.so.3", "/lib/ld-linux.so.3", "/lib/ld-musl-armhf.so.1", "/lib/ld-musl-arm.so.1",
}

// OneNumbering tells whether nothing was found that makes another architecture's calls: no file that s could not read as a
// program of this one, no instruction for them in code that may be reached, no linker of such programs anywhere. A static
// program that nothing is seen to execute escapes it.
func OneNumbering(root rootfs.Tree, s *evidence.Scan) bool {
	if len(s.Syscalls) == 0 || slices.ContainsFunc(s.Unknown, func(u evidence.Unknown) bool {
		return u.Kind == evidence.UnknownFile || u.Why == object.OtherNumbering
	}) {
		return false
	}
	return !slices.ContainsFunc(loaders, func(name string) bool {
		_, _, _, err := root.Lookup(name)
		return err == nil
	})
}
