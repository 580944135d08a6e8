// Package rpmfile lets github.com/erikvarga/go-rpmdb read rpm databases in SQLite format without SQLite: it registers a
// database/sql driver that knows the one query that library makes, all blobs of the table Packages.
//
// SQLite itself will not do here: rpm's databases are in write-ahead mode, for which it creates files beside them, and a
// scanner may not write; nor is a C library, translated or not, what hostile files should meet. This reader walks the
// table's pages once, in order, and bounds all it follows.
//
// Register may be called from any goroutine, and any number of times.
package rpmfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrDamaged: the file is not a SQLite database, or its pages lead nowhere.
var ErrDamaged = errors.New("damaged SQLite database")

const (
	headerSize  = 100
	maxPayload  = 64 << 20 // of one row
	maxDepth    = 20       // of a table's tree
	maxSchema   = 1000     // tables, indexes and the like
	leafPage    = 0x0d
	insidePage  = 0x05
	sqliteMagic = "SQLite format 3\x00"
)

// database reads tables of a file.
type database struct {
	r      io.ReaderAt
	page   int // bytes
	usable int // of a page
	left   int // pages that may still be read: no page is needed twice
}

func open(r io.ReaderAt, size int64) (*database, error) {
	var head [headerSize]byte
	if _, err := r.ReadAt(head[:], 0); err != nil || string(head[:16]) != sqliteMagic {
		return nil, fmt.Errorf("%w: no header", ErrDamaged)
	}
	page := int(binary.BigEndian.Uint16(head[16:]))
	if page == 1 {
		page = 1 << 16
	}
	usable := page - int(head[20])
	if page < 512 || page&(page-1) != 0 || usable < 480 {
		return nil, fmt.Errorf("%w: pages of %d bytes", ErrDamaged, page)
	}
	return &database{r: r, page: page, usable: usable, left: int(size/int64(page)) + 1}, nil
}

func (d *database) read(number uint32) ([]byte, error) {
	if d.left--; d.left < 0 || number == 0 {
		return nil, fmt.Errorf("%w: pages lead in a circle", ErrDamaged)
	}
	b := make([]byte, d.page)
	if _, err := d.r.ReadAt(b, int64(number-1)*int64(d.page)); err != nil {
		return nil, fmt.Errorf("%w: page %d: %w", ErrDamaged, number, err)
	}
	return b, nil
}

// rows calls each with the payload of every row of the table at root, in order, until it fails.
func (d *database) rows(root uint32, depth int, each func([]byte) error) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: tree too deep", ErrDamaged)
	}
	b, err := d.read(root)
	if err != nil {
		return err
	}
	at := 0
	if root == 1 {
		at = headerSize
	}
	kind, cells := b[at], int(binary.BigEndian.Uint16(b[at+3:]))
	pointers := at + 8
	if kind == insidePage {
		pointers += 4
	}
	if (kind != leafPage && kind != insidePage) || pointers+2*cells > len(b) {
		return fmt.Errorf("%w: page %d is no table's", ErrDamaged, root)
	}
	for i := range cells {
		cell := int(binary.BigEndian.Uint16(b[pointers+2*i:]))
		if cell+4 > len(b) {
			return fmt.Errorf("%w: cell outside page %d", ErrDamaged, root)
		}
		if kind == insidePage {
			err = d.rows(binary.BigEndian.Uint32(b[cell:]), depth+1, each)
		} else {
			err = d.row(b[cell:], each)
		}
		if err != nil {
			return err
		}
	}
	if kind == insidePage {
		return d.rows(binary.BigEndian.Uint32(b[at+8:]), depth+1, each)
	}
	return nil
}

// row collects a cell's payload, which may go on in overflow pages.
func (d *database) row(cell []byte, each func([]byte) error) error {
	size, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || size > uint64(min(maxPayload, (d.left+1)*d.page)) {
		return fmt.Errorf("%w: row of %d bytes", ErrDamaged, size)
	}
	cell = cell[n+m:]
	local := d.local(int(size))
	if local > len(cell) || (local < int(size) && local+4 > len(cell)) {
		return fmt.Errorf("%w: row outside its page", ErrDamaged)
	}
	payload := append(make([]byte, 0, size), cell[:local]...)
	if local < int(size) {
		next := binary.BigEndian.Uint32(cell[local:])
		for len(payload) < int(size) {
			b, err := d.read(next)
			if err != nil {
				return err
			}
			next = binary.BigEndian.Uint32(b)
			payload = append(payload, b[4:min(d.usable, 4+int(size)-len(payload))]...)
		}
	}
	return each(payload)
}

// local is how much of a payload is in the cell itself, by the rule for table leaves.
func (d *database) local(size int) int {
	most := d.usable - 35
	if size <= most {
		return size
	}
	least := (d.usable-12)*32/255 - 23
	if k := least + (size-least)%(d.usable-4); k <= most {
		return k
	}
	return least
}

// table finds the first page of a table.
func (d *database) table(name string) (uint32, error) {
	var root uint32
	n := 0
	err := d.rows(1, 0, func(payload []byte) error {
		if n++; n > maxSchema {
			return fmt.Errorf("%w: more than %d tables", ErrDamaged, maxSchema)
		}
		c, err := columns(payload, 4)
		if err == nil && string(c[0]) == "table" && string(c[1]) == name {
			for _, b := range c[3] {
				root = root<<8 | uint32(b)
			}
		}
		return err
	})
	if err == nil && root == 0 {
		err = fmt.Errorf("%w: no table %s", ErrDamaged, name)
	}
	return root, err
}

// columns splits a record into its first n columns' bytes.
func columns(payload []byte, n int) ([][]byte, error) {
	size, at := varint(payload)
	if at == 0 || size > uint64(len(payload)) {
		return nil, fmt.Errorf("%w: record's header", ErrDamaged)
	}
	head, body := payload[at:max(int(size), at)], payload[size:]
	var all [][]byte
	for len(all) < n {
		kind, m := varint(head)
		if m == 0 {
			return nil, fmt.Errorf("%w: record of %d columns", ErrDamaged, len(all))
		}
		head = head[m:]
		long := width(kind)
		if long > uint64(len(body)) {
			return nil, fmt.Errorf("%w: column outside its record", ErrDamaged)
		}
		all = append(all, body[:long])
		body = body[long:]
	}
	return all, nil
}

// width is the number of bytes of a column of the given serial type.
func width(kind uint64) uint64 {
	switch {
	case kind <= 4:
		return kind
	case kind == 5:
		return 6
	case kind == 6, kind == 7:
		return 8
	case kind < 12:
		return 0
	default:
		return (kind - 12) / 2
	}
}

// varint reads SQLite's big-endian integer of up to nine bytes; n is 0 when b ends within it.
func varint(b []byte) (v uint64, n int) {
	for i := range min(9, len(b)) {
		if i == 8 {
			return v<<8 | uint64(b[i]), 9
		}
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
