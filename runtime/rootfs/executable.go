package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"forefend.dev/forefend/runtime/workload"
)

// MaxHash is the size of the largest file that is hashed. A larger program is
// found, but has no SHA256.
const MaxHash = 512 << 20

// maxPath bounds how many directories of PATH are tried.
const maxPath = 128

// Executable finds the program that args start, as runc does with PATH and the
// working directory cwd of the container, and hashes it. Of a script the script
// is hashed, not its interpreter. The error wraps fs.ErrNotExist when there is no
// such program in the tree. A cancelled ctx ends hashing.
func (t Tree) Executable(ctx context.Context, args []string, searchPath, cwd string) (workload.Executable, error) {
	f, resolved, err := t.findProgram(args, searchPath, cwd)
	if err != nil {
		return workload.Executable{}, err
	}
	defer f.Close()
	c, err := examine(ctx, f)
	if err != nil {
		return workload.Executable{}, err
	}
	return c.executable(resolved), nil
}

// content is what is known of a file's content.
type content struct {
	sha256 string
	bits   int
}

func (c content) executable(resolved string) workload.Executable {
	return workload.Executable{Path: resolved, SHA256: c.sha256, Bits: c.bits}
}

func (t Tree) findProgram(args []string, searchPath, cwd string) (f *os.File, resolved string, err error) {
	if len(args) == 0 || args[0] == "" {
		return nil, "", fmt.Errorf("find the program: no arguments: %w", fs.ErrInvalid)
	}
	w, err := t.walk()
	if err != nil {
		return nil, "", fmt.Errorf("find the program: %w", err)
	}
	defer w.close()
	if strings.Contains(args[0], "/") {
		f, resolved, err = w.openProgram(absolute(cwd, args[0]))
	} else {
		f, resolved, err = w.search(args[0], searchPath, cwd)
	}
	if err != nil {
		return nil, "", fmt.Errorf("find the program %.256q: %w", args[0], err)
	}
	return f, resolved, nil
}

// absolute does not clean: "link/.." is where link leads, not where it is.
func absolute(cwd, name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return cwd + "/" + name
}

// search tries the directories of PATH in order. runc refuses a program that it
// finds in a relative one, so it is not found here either.
func (w *walker) search(name, searchPath, cwd string) (*os.File, string, error) {
	for range maxPath {
		dir, rest, more := strings.Cut(searchPath, ":")
		f, resolved, err := w.openProgram(absolute(cwd, path.Join(dir, name)))
		if err == nil && !strings.HasPrefix(dir, "/") {
			f.Close()
			return nil, "", fmt.Errorf("it is in the relative directory %.256q of PATH: %w", dir, fs.ErrNotExist)
		}
		if err == nil {
			return f, resolved, nil
		}
		if errors.Is(err, errors.ErrUnsupported) {
			return nil, "", err // a later directory's would be the wrong one
		}
		if !more {
			return nil, "", fmt.Errorf("not in PATH: %w", fs.ErrNotExist)
		}
		searchPath = rest
	}
	return nil, "", fmt.Errorf("not in the first %d directories of PATH: %w", maxPath, fs.ErrNotExist)
}

// openProgram opens a regular file that somebody may execute.
func (w *walker) openProgram(name string) (*os.File, string, error) {
	n, err := w.lookup(name)
	if err != nil {
		return nil, "", err
	}
	defer n.file.Close()
	if n.info.Mode().Perm()&0o111 == 0 {
		return nil, "", fs.ErrPermission
	}
	f, err := n.open()
	return f, "/" + n.rel, err
}

// examine reads a program once: ELF class and hash. A file that changes
// meanwhile is an error.
func examine(ctx context.Context, f *os.File) (content, error) {
	before, err := identify(f)
	if err != nil {
		return content{}, err
	}
	if before.size > MaxHash {
		var head [5]byte
		n, err := f.ReadAt(head[:], 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return content{}, fmt.Errorf("read the program: %w", err)
		}
		return content{bits: elfBits(head[:n])}, nil
	}
	c, err := hash(ctx, f)
	if err != nil {
		return content{}, fmt.Errorf("hash the program: %w", err)
	}
	after, err := identify(f)
	if err != nil {
		return content{}, err
	}
	if before != after {
		return content{}, errors.New("hash the program: it changed meanwhile")
	}
	return c, nil
}

func hash(ctx context.Context, f *os.File) (content, error) {
	h := sha256.New()
	buf := make([]byte, 128<<10)
	bits, total := 0, int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return content{}, err
		}
		n, err := io.ReadFull(f, buf)
		if total == 0 {
			bits = elfBits(buf[:n])
		}
		h.Write(buf[:n])
		total += int64(n)
		if total > MaxHash {
			return content{}, fmt.Errorf("grew beyond %d bytes", MaxHash)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return content{sha256: hex.EncodeToString(h.Sum(nil)), bits: bits}, nil
		}
		if err != nil {
			return content{}, err
		}
	}
}

// elfBits reads the class byte of an ELF header.
func elfBits(head []byte) int {
	if len(head) < 5 || string(head[:4]) != "\x7fELF" {
		return 0
	}
	switch head[4] {
	case 1:
		return 32
	case 2:
		return 64
	}
	return 0
}
