package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keepOneCapability leaves CAP_DAC_READ_SEARCH, if the process has it, and nothing else.
func keepOneCapability() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	kept := data[0].Permitted & (1 << unix.CAP_DAC_READ_SEARCH)
	data = [2]unix.CapUserData{{Effective: kept, Permitted: kept}}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&header)
	pin.Pin(&data[0])
	return everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
}
