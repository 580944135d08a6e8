package network

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/child"
)

// NameServer runs dnsmasq in a namespace, on port 53 of all its addresses, until stop. args say what it knows, as its manual does.
func NameServer(in *enter.Namespace, args ...string) (stop func(), err error) {
	cmd := exec.Command("dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file", "--port=53", "--log-facility=-",
		"--edns-packet-max=4096",
	}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	gone, err := child.Begin(in, cmd)
	if err != nil {
		return nil, fmt.Errorf("name server (make setup-test installs it): %w", err)
	}
	stop = func() {
		_ = cmd.Process.Kill() // it may have ended
		<-gone
	}
	err = in.Do(func() error {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			c, err := net.Dial("tcp", "127.0.0.1:53")
			if err == nil {
				return c.Close()
			}
			if time.Now().After(end) {
				return err
			}
		}
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("name server: %w: %s", err, output.String())
	}
	return stop, nil
}
