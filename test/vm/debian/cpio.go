package debian

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
)

// Entry is one file of an initial RAM disk.
type Entry struct {
	Name         string // without a leading slash; directories come before what is in them
	Mode         fs.FileMode
	Data         []byte
	Major, Minor uint32 // of a device
}

// Of cpio's mode field.
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

// Archive writes entries in cpio's "newc" format, the one the kernel unpacks. Archives may be appended to one another.
func Archive(entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	for i, e := range append(entries[:len(entries):len(entries)], Entry{Name: "TRAILER!!!"}) {
		mode := uint32(e.Mode.Perm())
		switch {
		case e.Mode.IsDir():
			mode |= cpioDir
		case e.Mode&fs.ModeCharDevice != 0:
			mode |= cpioChar
		case e.Mode.IsRegular():
			mode |= cpioFile
		default:
			return nil, fmt.Errorf("cpio: %s is a %v", e.Name, e.Mode)
		}
		if strings.HasPrefix(e.Name, "/") || e.Name == "" {
			return nil, fmt.Errorf("cpio: %q is not a relative name", e.Name)
		}
		// inode, mode, uid, gid, links, mtime, size, device (2), rdev (2), length of the name, checksum (unused)
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			i+1, mode, 0, 0, 1, 0, len(e.Data), 0, 0, e.Major, e.Minor, len(e.Name)+1, 0)
		b.WriteString(e.Name)
		b.WriteByte(0)
		pad(&b)
		b.Write(e.Data)
		pad(&b)
	}
	return b.Bytes(), nil
}

// pad fills up to the next multiple of four bytes.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
