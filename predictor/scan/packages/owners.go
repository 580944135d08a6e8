package packages

import (
	"bufio"
	"io"
	"path"
	"strings"

	"forefend.dev/forefend/runtime/rootfs"
)

// maxOwned bounds the files of one package that are looked at.
const maxOwned = 200_000

// owners answers which files a package owns. It reads the databases when first asked: most scans ask about few packages.
type owners struct {
	tree  rootfs.Tree
	names map[string]bool     // of files in dpkg's directory
	apk   map[string][]string // package -> files
	rpm   map[string][]string
}

// files calls each with the files of a package until it returns false.
func (o *owners) files(p Package, each func(string) bool) {
	switch p.owner {
	case byDpkg:
		o.dpkg(p.Name, each)
	case byDistroless:
		o.lines(p.From+".md5sums", func(line string) bool {
			_, name, ok := strings.Cut(line, "  ")
			return !ok || each("/"+strings.TrimPrefix(name, "/"))
		})
	case byApk:
		if o.apk == nil {
			o.apk = o.readApk(p.From)
		}
		every(o.apk[p.Name], each)
	case byRpm:
		if o.rpm == nil {
			o.rpm = o.readRpm(p.From)
		}
		every(o.rpm[p.Name], each)
	case byBinary:
		each(p.From)
	}
}

func every(list []string, each func(string) bool) {
	for _, name := range list {
		if !each(name) {
			return
		}
	}
}

const dpkgInfo = "/var/lib/dpkg/info"

// dpkg reads NAME.list, or NAME:ARCH.list of a package that may be installed for several.
func (o *owners) dpkg(name string, each func(string) bool) {
	if strings.ContainsAny(name, "/\x00") {
		return
	}
	if o.names == nil {
		o.names = make(map[string]bool)
		list, _, _ := o.tree.List(dpkgInfo)
		for _, e := range list {
			o.names[e.Name] = true
		}
	}
	for _, arch := range []string{"", ":amd64", ":arm64", ":armhf", ":i386", ":armel", ":riscv64", ":ppc64el", ":s390x"} {
		if file := name + arch + ".list"; o.names[file] {
			o.lines(path.Join(dpkgInfo, file), each)
		}
	}
}

// lines reads a text file.
func (o *owners) lines(name string, each func(string) bool) {
	f, _, err := o.tree.OpenFile(name)
	if err != nil {
		return
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxDatabase))
	for n := 0; s.Scan() && n < maxOwned; n++ {
		if !each(s.Text()) {
			return
		}
	}
}

// readApk reads the database again for what scalibr does not keep: directories (F:) and the files in them (R:).
func (o *owners) readApk(from string) map[string][]string {
	all := make(map[string][]string)
	name, dir := "", ""
	o.lines(from, func(line string) bool {
		value := ""
		if len(line) > 2 && line[1] == ':' {
			value = line[2:]
		}
		switch {
		case line == "":
			name, dir = "", ""
		case strings.HasPrefix(line, "P:"):
			name = value
		case strings.HasPrefix(line, "F:"):
			dir = "/" + value
		case strings.HasPrefix(line, "R:") && name != "":
			all[name] = append(all[name], path.Join(dir, value))
		}
		return true
	})
	return all
}

func (o *owners) readRpm(from string) map[string][]string {
	all := make(map[string][]string)
	list, err := rpmList(o.tree, from)
	if err != nil {
		return all // told when the packages were listed
	}
	for _, p := range list {
		for i, base := range p.BaseNames {
			if i < len(p.DirIndexes) && p.DirIndexes[i] >= 0 && int(p.DirIndexes[i]) < len(p.DirNames) {
				all[p.Name] = append(all[p.Name], path.Join("/", p.DirNames[p.DirIndexes[i]], base))
			}
		}
	}
	return all
}
