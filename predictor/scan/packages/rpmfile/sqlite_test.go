package rpmfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	rpmdb "github.com/erikvarga/go-rpmdb/pkg"
)

// sqliteFile makes a database of 512-byte pages with one table Packages of the given blobs, as SQLite lays it out: the
// schema on page 1, one leaf on page 2, overflow behind.
func sqliteFile(blobs ...[]byte) []byte {
	const page = 512
	pages := make([][]byte, 2)
	for i := range pages {
		pages[i] = make([]byte, page)
	}
	copy(pages[0], sqliteMagic)
	binary.BigEndian.PutUint16(pages[0][16:], page)
	schema := []byte{6, 23, 29, 29, 1, 13} // header size, then text of 5, 8, 8, an int of one byte, text of 0
	schema = append(schema, "tablePackagesPackages\x02"...)
	leaf(pages[0], headerSize, [][]byte{cell(1, schema)})
	d := database{usable: page}
	var cells [][]byte
	for i, b := range blobs {
		head := put(uint64(12 + 2*len(b)))
		payload := append([]byte{byte(2 + len(head)), 0}, head...)
		payload = append(payload, b...)
		c := cell(byte(i+1), payload)
		local := d.local(len(payload))
		if local < len(payload) {
			c = append(c[:len(c)-len(payload)+local], binary.BigEndian.AppendUint32(nil, uint32(len(pages)+1))...)
			for rest := payload[local:]; len(rest) > 0; {
				n := min(len(rest), page-4)
				next := uint32(0)
				if n < len(rest) {
					next = uint32(len(pages) + 2)
				}
				p := append(binary.BigEndian.AppendUint32(nil, next), rest[:n]...)
				pages = append(pages, append(p, make([]byte, page-len(p))...))
				rest = rest[n:]
			}
		}
		cells = append(cells, c)
	}
	leaf(pages[1], 0, cells)
	return bytes.Join(pages, nil)
}

func cell(row byte, payload []byte) []byte {
	return append(append(put(uint64(len(payload))), row), payload...)
}

func leaf(page []byte, at int, cells [][]byte) {
	page[at] = leafPage
	binary.BigEndian.PutUint16(page[at+3:], uint16(len(cells)))
	end := len(page)
	for i, c := range cells {
		end -= len(c)
		copy(page[end:], c)
		binary.BigEndian.PutUint16(page[at+8+2*i:], uint16(end))
	}
}

func put(v uint64) []byte {
	if v < 0x80 {
		return []byte{byte(v)}
	}
	return []byte{byte(v>>7) | 0x80, byte(v & 0x7f)}
}

func blobsOf(t *testing.T, file []byte) ([][]byte, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rpmdb.sqlite")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := files{}.Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, err := stmt{c.(*conn)}.Query(nil)
	if err != nil {
		return nil, err
	}
	return r.(*rows).blobs, nil
}

func TestRows(t *testing.T) {
	want := [][]byte{[]byte("one"), bytes.Repeat([]byte("long "), 600), {}}
	got, err := blobsOf(t, sqliteFile(want...))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d blobs, %v; want %d", len(got), err, len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("blob %d has %d bytes, want %d", i, len(got[i]), len(want[i]))
		}
	}
}

func TestACircleOfPagesEnds(t *testing.T) {
	file := sqliteFile([]byte("x"))
	file[512] = insidePage // whose right-most child is itself
	binary.BigEndian.PutUint32(file[512+8:], 2)
	if _, err := blobsOf(t, file); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v, want ErrDamaged", err)
	}
	if _, err := blobsOf(t, []byte("SQLite format 3, or not")); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v, want ErrDamaged", err)
	}
}

// The databases that go-rpmdb tests itself with, where the module cache has them.
func TestRealDatabases(t *testing.T) {
	Register()
	cache, err := os.UserHomeDir()
	if err != nil {
		t.Skip(err)
	}
	found, _ := filepath.Glob(filepath.Join(cache, "go/pkg/mod/github.com/erikvarga/go-rpmdb*/pkg/testdata/*/rpmdb.sqlite"))
	if len(found) == 0 {
		t.Skip("no rpm database in SQLite format in the module cache")
	}
	for _, path := range found {
		db, err := rpmdb.Open(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		list, err := db.ListPackages()
		if err != nil || len(list) < 50 {
			t.Errorf("%s: %d packages, %v", path, len(list), err)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add(sqliteFile([]byte("one"), []byte("two")))
	f.Add(sqliteFile(bytes.Repeat([]byte("x"), 3000)))
	f.Fuzz(func(t *testing.T, file []byte) {
		d, err := open(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			return
		}
		root, err := d.table("Packages")
		if err != nil {
			return
		}
		total := 0
		_ = d.rows(root, 0, func(p []byte) error {
			total += len(p)
			_, err := columns(p, 2)
			return err
		})
		if total > 64*len(file) {
			t.Errorf("%d bytes of rows from %d of file", total, len(file))
		}
	})
}
