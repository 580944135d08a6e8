package rpmfile

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
)

// name is the driver that go-rpmdb asks for, and query what it asks.
const (
	name  = "sqlite"
	query = "SELECT blob FROM Packages"
)

var register sync.Once

// Register makes go-rpmdb able to read SQLite, unless the program brings a driver of that name already.
func Register() {
	register.Do(func() {
		if !slices.Contains(sql.Drivers(), name) {
			sql.Register(name, files{})
		}
	})
}

type files struct{}

// Open opens the database file at path.
func (files) Open(path string) (driver.Conn, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d, err := open(f, info.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &conn{f, d}, nil
}

type conn struct {
	file *os.File
	db   *database
}

func (c *conn) Prepare(q string) (driver.Stmt, error) {
	if q != query {
		return nil, fmt.Errorf("rpm database: %q: %w", q, errors.ErrUnsupported)
	}
	return stmt{c}, nil
}

func (c *conn) Close() error              { return c.file.Close() }
func (c *conn) Begin() (driver.Tx, error) { return nil, errors.ErrUnsupported }

type stmt struct{ *conn }

func (stmt) Close() error                               { return nil }
func (stmt) NumInput() int                              { return 0 }
func (stmt) Exec([]driver.Value) (driver.Result, error) { return nil, errors.ErrUnsupported }

// Query reads the table. Its rows are collected first: the largest real database has some 30 MB of them.
func (s stmt) Query([]driver.Value) (driver.Rows, error) {
	root, err := s.db.table("Packages")
	if err != nil {
		return nil, err
	}
	r := &rows{}
	total := 0
	err = s.db.rows(root, 0, func(payload []byte) error {
		c, err := columns(payload, 2) // hnum, blob
		if err != nil {
			return err
		}
		if total += len(c[1]); total > 2*maxPayload {
			return fmt.Errorf("%w: more than %d bytes of packages", ErrDamaged, 2*maxPayload)
		}
		r.blobs = append(r.blobs, c[1])
		return nil
	})
	return r, err
}

type rows struct{ blobs [][]byte }

func (*rows) Columns() []string { return []string{"blob"} }
func (*rows) Close() error      { return nil }

func (r *rows) Next(to []driver.Value) error {
	if len(r.blobs) == 0 {
		return io.EOF
	}
	to[0], r.blobs = r.blobs[0], r.blobs[1:]
	return nil
}
