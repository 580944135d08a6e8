package main

import (
	"os"
	"path/filepath"
	"runtime"
)

// The images that the suites pull by name. Their own cannot be had without their registries, so ours stand in: they
// have what the suites look for, and both runtimes get the same ones.
func suiteImages(dir string) (map[string]image, error) {
	b := builder{dir: dir, all: make(map[string]image)}
	busybox, nginx, pause, static := b.read("busybox"), b.read("nginx"), b.read("pause"), b.read("static")

	const e2e, staging = "e2e-test-images/", "k8s-staging-cri-tools/"
	// Debian's busybox has no pgrep and no ipcs, which critest calls; of the latter it wants lines that tell segments
	// apart. (It masks ls, too, which here is a link to all of busybox: that test fails under every runtime.)
	busybox = b.changed(busybox, change{modes: map[string]int64{"bin/pgrep": 0o755, "bin/ipcs": 0o755}, files: map[string]string{
		"bin/pgrep": "#!/bin/sh\nexec pidof \"$1\"\n", "bin/ipcs": "#!/bin/sh\nexec cat /proc/sysvipc/shm\n",
	}})
	b.add(busybox, e2e+"busybox:1.29-2")
	b.add(nginx, e2e+"nginx:1.14-2")
	b.add(pause, "pause:3.9", "pause:3.10.2", "library/pause:latest") // one that a suite removed is pulled again
	b.variant(busybox, change{cmd: []string{"sh", "-c", "echo httpd: ready; exec httpd -f -p 80 -h /www"},
		files: map[string]string{"www/": "", "www/index.html": "<html><body><h1>It works!</h1></body></html>\n"}}, e2e+"httpd:2.4.39-4")
	b.variant(static, change{cmd: []string{"/nonewprivs", "euid"}, modes: map[string]int64{"nonewprivs": 0o4755},
		files: map[string]string{"nonewprivs": b.file("probe")}}, e2e+"nonewprivs:1.3")
	b.variant(nginx, change{files: map[string]string{"etc/nginx/conf.d/hostnet.conf": "server { listen 12003; root /var/www/html; index index.nginx-debian.html; }\n",
		"etc/nginx/sites-enabled/default": "# port 80 is not ours in the host's network\n"}}, staging+"hostnet-nginx-"+runtime.GOARCH+":latest")

	for name, user := range map[string]string{
		"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004",
	} {
		b.variant(busybox, change{user: user}, staging+"test-image-user-"+name+":latest")
	}
	b.variant(busybox, change{user: "1000", files: map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home:/bin/sh\n",
		"etc/group":  "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
	}}, staging+"test-image-predefined-group:latest")

	for _, name := range []string{"1", "2", "3", "latest", "digest"} {
		b.variant(busybox, change{label: name}, staging+"test-image-"+name+":latest")
	}
	b.variant(busybox, change{label: "tags"}, staging+"test-image-tags:1", staging+"test-image-tags:2", staging+"test-image-tags:3")
	b.variant(busybox, change{label: "tag"}, staging+"test-image-tag:test", staging+"test-image-tag:all")

	const theirs = "containerd/"
	b.variant(busybox, change{files: map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n",
		"etc/group":  "root:x:0:\ndaemon:x:1:\nwheel:x:10:root\n",
	}}, theirs+"alpine:3.14.0", theirs+"busybox:1.36")
	b.add(nginx, theirs+"nginx:1.27.0", e2e+"resource-consumer:1.10")
	b.variant(busybox, change{volumes: []string{"/test_dir", "C:/weird_test_dir", "/:colon_prefixed"}, files: map[string]string{
		"test_dir/": "", "test_dir/test_file": "test_content\n", "C:/": "", "C:/weird_test_dir/": "",
		"C:/weird_test_dir/weird_test_file": "test_content\n", ":colon_prefixed/": "", ":colon_prefixed/colon_prefixed_file": "test_content\n",
	}}, theirs+"volume-copy-up:2.2")
	b.variant(busybox, change{volumes: []string{"/test_dir"}, files: map[string]string{"test_dir/": ""}, owner: 65534}, theirs+"volume-ownership:2.1")
	return b.all, b.err
}

// builder collects images and the first thing that went wrong.
type builder struct {
	dir string
	all map[string]image
	err error
}

func (b *builder) read(name string) image {
	i, err := readArchive(filepath.Join(b.dir, name+".tar"))
	b.fail(err)
	return i
}

func (b *builder) file(name string) string {
	body, err := os.ReadFile(filepath.Join(b.dir, name))
	b.fail(err)
	return string(body)
}

func (b *builder) variant(of image, c change, names ...string) { b.add(b.changed(of, c), names...) }

func (b *builder) changed(of image, c change) image {
	i, err := of.with(c)
	b.fail(err)
	return i
}

func (b *builder) add(i image, names ...string) {
	for _, n := range names {
		b.all[n] = i
	}
}

func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}
