package early

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
)

// removedFile is the file of a bundle by which a shim says that nothing is left of the container. It is gone with the bundle.
const removedFile = "forefend-removed"

// removedVersion is its first line.
const removedVersion = "1"

// maxRemoved is how long it may be, in bytes: a path and three numbers.
const maxRemoved = 8 << 10

// NoteRemoved writes down in its bundle that the shim has removed a container and all that was made for it, and what containerd was answered
// (a DeleteResponse, encoded). socket is the path where the shim listens, "" if it is not known.
func NoteRemoved(bundle, socket string, response []byte) error {
	path := bundle + "/" + removedFile
	body := append([]byte(removedVersion+"\n"+socket+"\n"), response...)
	if err := os.WriteFile(path+"~", body, 0o600); err != nil {
		return err
	}
	return os.Rename(path+"~", path) // a shim that is killed leaves all of it or nothing
}

// Removed tells whether nothing is left of a bundle's container, and what its shim answered. A shim that was killed after its container was removed has
// left its socket: then there is something left.
func Removed(bundle string) (response []byte, ok bool) {
	f, err := os.Open(bundle + "/" + removedFile)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxRemoved+1))
	if err != nil || len(body) > maxRemoved {
		return nil, false
	}
	version, rest, _ := bytes.Cut(body, []byte("\n"))
	socket, response, whole := bytes.Cut(rest, []byte("\n"))
	if !whole || string(version) != removedVersion {
		return nil, false
	}
	if len(socket) > 0 {
		if _, err := os.Lstat(string(socket)); !errors.Is(err, fs.ErrNotExist) {
			return nil, false
		}
	}
	return response, true
}
