package doctor

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onOwnThread calls do on a thread that nothing else ever uses: never unlocked, it ends with its goroutine, and takes
// along what do did to it.
func onOwnThread(do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // the main thread cannot end: hold it while another one does the work
			defer runtime.UnlockOSThread()
			result <- onOwnThread(do)
			return
		}
		result <- do()
	}()
	return <-result
}
