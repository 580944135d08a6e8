package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// formatVersion is part of every key: raise it when a change of this program changes what it writes.
const formatVersion = 1

// recipe says what one image is made of. Exactly one of packages and files is set.
type recipe struct {
	name     string
	packages []string // Debian packages over an essential system
	setup    string   // shell, run inside the new root as its root user
	files    func(dir string) []file
	config   imageConfig
	// onDemand images are large and built only when named: `make test-apps` does.
	onDemand bool
}

// imageConfig is the part of an OCI image's configuration a container is started from.
type imageConfig struct {
	User       string   `json:"User,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
	Env        []string `json:"Env,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	StopSignal string   `json:"StopSignal,omitempty"`
}

var searchPath = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// recipes are all images; those of one run are built side by side. None has an entrypoint: what a test passes is what runs.
var recipes = []recipe{
	{
		name:   "static",
		files:  staticFiles,
		config: imageConfig{Cmd: []string{"/probe", "serve"}},
	},
	{
		name:   "pause", // the first container of a pod under CRI
		files:  staticFiles,
		config: imageConfig{Cmd: []string{"/probe", "pause"}},
	},
	{
		name:   growerName,
		files:  growerFiles,
		config: imageConfig{Cmd: []string{"/grower", "/m"}},
	},
	{
		name:   "busybox",
		files:  busyboxFiles,
		config: imageConfig{Env: searchPath, Cmd: []string{"sh"}},
	},
	{
		name:     "redis",
		packages: []string{"redis-server"},
		setup:    `mkdir -p /data && chown redis:redis /data`,
		config: imageConfig{
			User: "redis", WorkingDir: "/data", Env: searchPath,
			Cmd: []string{"redis-server", "--protected-mode", "no", "--save", "", "--dir", "/data"},
		},
	},
	{
		name:     "nginx",
		packages: []string{"nginx-light"},
		setup: `sed -i 's#access_log .*#access_log off;#; s#error_log .*#error_log stderr;#' /etc/nginx/nginx.conf
			head -c 1048576 /dev/zero | tr '\0' x > /var/www/html/1m.bin
			echo ok > /var/www/html/small.txt`,
		config: imageConfig{
			Env: searchPath, StopSignal: "SIGQUIT",
			Cmd: []string{"nginx", "-g", "daemon off;"},
		},
	},
	{
		name:     "servers", // what TestEnforced runs beside redis and nginx
		packages: []string{"postgresql", "memcached", "python3-minimal", "nodejs", "procps"},
		setup:    `rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin`,
		config:   imageConfig{Env: searchPath, Cmd: []string{"bash"}},
		onDemand: true,
	},
	{
		name: "apps",
		packages: []string{
			"postgresql", "mariadb-server", "memcached", "python3-minimal", "nodejs", "openssh-server", "openssh-client",
			"gcc", "libc6-dev", "make", "git", "iputils-ping", "strace", "gdb", "tcpdump", "bubblewrap", "sudo", "cron",
			"procps", "iproute2", "netcat-openbsd", "openmpi-bin", "tini",
		},
		// What the packages start for a booting machine is what a container starts by hand: no keys or data yet.
		setup: `useradd -m -s /bin/sh -u 1000 app
			echo 'app ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/app
			rm -rf /var/lib/mysql/* /var/lib/apt/lists/* /var/cache/apt/*.bin /etc/ssh/ssh_host_*`,
		config:   imageConfig{Env: searchPath, Cmd: []string{"bash"}},
		onDemand: true,
	},
}

func names() []string {
	var all []string
	for _, r := range recipes {
		all = append(all, r.name)
	}
	return all
}

// choose returns the recipes called wanted, or all that are not onDemand when wanted is empty.
func choose(wanted []string) ([]recipe, error) {
	for _, w := range wanted {
		if !slices.Contains(names(), w) {
			return nil, fmt.Errorf("no image %q: there are %s", w, strings.Join(names(), ", "))
		}
	}
	var chosen []recipe
	for _, r := range recipes {
		if len(wanted) == 0 && !r.onDemand || slices.Contains(wanted, r.name) {
			chosen = append(chosen, r)
		}
	}
	return chosen, nil
}

// key digests everything the image is made from, except Debian's packages themselves: a new package version alone
// is no reason to build again.
func (r recipe) key(dir string) (string, error) {
	config, err := json.Marshal(r.config)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %q %q %s\n", formatVersion, r.name, r.packages, r.setup, config)
	if r.files != nil {
		for _, f := range r.files(dir) {
			fmt.Fprintf(h, "%s %o %q %q\n", f.path, f.mode, f.link, f.text)
			if err := digestFile(h, f.from); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprintf("%x\n", h.Sum(nil)), nil
}

func digestFile(w io.Writer, path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// build makes the root filesystem of r and packs it as archive.
func build(ctx context.Context, dir, archive string, r recipe) error {
	raw := filepath.Join(dir, r.name+".rootfs")
	defer os.Remove(raw)
	if r.files != nil {
		if err := writeFiles(raw, r.files(dir)); err != nil {
			return err
		}
	} else if err := debianRoot(ctx, raw, r.packages, r.setup); err != nil {
		return err
	}
	return writeArchive(archive, raw, r.name, r.config)
}
