package rootfs

import (
	"reflect"
	"testing"
)

func TestLayersAndUpper(t *testing.T) {
	overlay := func(options ...string) []Mount {
		return []Mount{{Type: "overlay", Source: "overlay", Options: options}}
	}
	for _, c := range []struct {
		name   string
		mounts []Mount
		layers []string
		upper  string
	}{
		{"overlay", overlay("index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"), []string{"/s/3/fs", "/s/2/fs", "/s/1/fs"}, "/s/3/fs"},
		{"read-only overlay", overlay("lowerdir=/s/2/fs:/s/1/fs"), []string{"/s/2/fs", "/s/1/fs"}, ""},
		{"quoted", overlay(`lowerdir=/a\:b:/c\\d:/e`, `upperdir=/u\:v`), []string{"/u:v", "/a:b", `/c\d`, "/e"}, "/u:v"},
		{"one option a layer", overlay("lowerdir+=/a", "lowerdir+=/b", "datadir+=/d"), []string{"/a", "/b"}, ""},
		{"data-only layers", overlay("lowerdir=/a:/b::/data"), []string{"/a", "/b"}, ""},
		{"bind", []Mount{{Type: "bind", Source: "/s/1", Options: []string{"rbind", "rw"}}}, []string{"/s/1"}, ""},
		{"bind by option", []Mount{{Source: "/s/1", Options: []string{"ro", "rbind"}}}, []string{"/s/1"}, ""},
		{"block device", []Mount{{Type: "ext4", Source: "/dev/dm-3"}}, []string{"/b/rootfs"}, ""},
		{"none", nil, []string{"/b/rootfs"}, ""},
		{"template", []Mount{{Type: "format/overlay", Options: []string{"lowerdir={{ mount 0 }}"}}}, []string{"/b/rootfs"}, ""},
		{"relative", overlay("lowerdir=2/fs:1/fs", "upperdir=3/fs"), []string{"/b/rootfs"}, ""},
		{"empty overlay", overlay(), []string{"/b/rootfs"}, ""},
		{"trailing backslash", overlay(`lowerdir=/a\`), []string{`/a\`}, ""},
		{"two", append(overlay("lowerdir=/a"), overlay("lowerdir=/b")...), []string{"/b/rootfs"}, ""},
		{"subdirectory", []Mount{{Type: "bind", Source: "/a", Target: "/sub"}}, []string{"/b/rootfs"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Layers(c.mounts, "/b/rootfs"); !reflect.DeepEqual(got, c.layers) {
				t.Errorf("layers %q, want %q", got, c.layers)
			}
			if got := Upper(c.mounts); got != c.upper {
				t.Errorf("upper %q, want %q", got, c.upper)
			}
		})
	}
}

func FuzzLayers(f *testing.F) {
	f.Add("lowerdir=/a:/b", `upperdir=/u\:v`)
	f.Add(`lowerdir=\`, "lowerdir+=")
	f.Fuzz(func(t *testing.T, a, b string) {
		m := []Mount{{Type: "overlay", Options: []string{a, b}}}
		for _, dir := range append(Layers(m, "/b"), Upper(m)) {
			if dir != "" && dir[0] != '/' {
				t.Errorf("relative layer %q", dir)
			}
		}
	})
}
