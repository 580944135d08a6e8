package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestMetricsListen(t *testing.T) {
	for _, c := range []struct{ listen, network, address, problem string }{
		{"unix", "unix", "/run/forefend/metrics.sock", ""},
		{"off", "", "", ""},
		{"unix:/run/m.sock", "unix", "/run/m.sock", ""},
		{"127.0.0.1:9469", "tcp", "127.0.0.1:9469", ""},
		{"127.1.2.3:1", "tcp", "127.1.2.3:1", ""},
		{"[::1]:9469", "tcp", "[::1]:9469", ""},
		{"0.0.0.0:9469", "", "", "anybody on the network"},
		{"[::]:9469", "", "", "anybody on the network"},
		{":9469", "", "", "anybody on the network"},
		{"192.0.2.1:9469", "", "", "anybody on the network"},
		{"localhost:9469", "", "", "loopback"}, // a name is whatever the resolver says
		{"127.0.0.1", "", "", "is not an address with a port"},
		{"127.0.0.1:0", "", "", "is not an address with a port"},
		{"127.0.0.1:70000", "", "", "is not an address with a port"},
		{"unix:", "", "", "absolute path"},
		{"unix:m.sock", "", "", "absolute path"},
		{"unix:/a/../m.sock", "", "", "absolute path"},
		{"unix:/" + strings.Repeat("x", 107), "", "", "absolute path"},
		{"", "", "", "is not an address with a port"},
	} {
		loaded, err := Load(write(t, fmt.Sprintf("[metrics]\nlisten = %q\n", c.listen)))
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) || !strings.Contains(err.Error(), ":2: metrics.listen: ") ||
				!strings.Contains(err.Error(), `write "unix"`) {
				t.Errorf("%q: %v", c.listen, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.listen, err)
			continue
		}
		if network, address := loaded.MetricsAddress(); network != c.network || address != c.address {
			t.Errorf("%q: %q %q", c.listen, network, address)
		}
	}
}
