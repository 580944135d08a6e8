package scan

import (
	"encoding/binary"
	"slices"
	"testing"
)

func TestLinkerConfig(t *testing.T) {
	got := parseLinkerConfig([]byte("# comment\ninclude ld.so.conf.d/*.conf\n/usr/local/lib /opt/lib, /x=libc6 # end\n\nhwcap 1 nosegneg\n"))
	if want := []string{"include ld.so.conf.d/*.conf", "/usr/local/lib", "/opt/lib", "/x"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// linkerCache builds a cache file as ldconfig does.
func linkerCache(pairs ...string) []byte {
	le := binary.LittleEndian
	n := len(pairs) / 2
	b := append([]byte("glibc-ld.so.cache1.1"), make([]byte, 28)...)
	le.PutUint32(b[20:], uint32(n))
	strings := []byte{}
	for i := 0; i < len(pairs); i += 2 {
		e := make([]byte, 24)
		base := 48 + n*24
		le.PutUint32(e[4:], uint32(base+len(strings)))
		strings = append(append(strings, pairs[i]...), 0)
		le.PutUint32(e[8:], uint32(base+len(strings)))
		strings = append(append(strings, pairs[i+1]...), 0)
		b = append(b, e...)
	}
	return append(b, strings...)
}

func TestLinkerCache(t *testing.T) {
	b := linkerCache("libc.so.6", "/lib/a/libc.so.6", "libc.so.6", "/lib/b/libc.so.6", "libz.so.1", "relative")
	for name, file := range map[string][]byte{"new": b, "behind the old format": append(make([]byte, 100), b...)} {
		got := parseLinkerCache(file)
		if len(got) != 1 || !slices.Equal(got["libc.so.6"], []string{"/lib/a/libc.so.6", "/lib/b/libc.so.6"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := parseLinkerCache([]byte("glibc-ld.so.cache1.1")); len(got) != 0 {
		t.Error(got)
	}
}

func FuzzLinkerCache(f *testing.F) {
	f.Add(linkerCache("libc.so.6", "/lib/libc.so.6"))
	f.Add([]byte("glibc-ld.so.cache1.1\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, files := range parseLinkerCache(b) {
			for _, file := range files {
				if name == "" || file[0] != '/' {
					t.Errorf("%q: %q", name, file)
				}
			}
		}
	})
}

func FuzzLinkerConfig(f *testing.F) {
	f.Add([]byte("include a\n/lib,/b=c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(parseLinkerConfig(b)); n > maxConfigDirs+len(b) {
			t.Error(n)
		}
	})
}
