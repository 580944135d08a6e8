package eval

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxDataLine bounds one line of recorded data.
const maxDataLine = 64 << 20

// openData opens a file of recorded data, gzipped or not: its content tells.
func openData(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("recorded data: %w", err)
	}
	in := bufio.NewReaderSize(f, 1<<16)
	if magic, err := in.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return dataFile{in, nil, f}, nil
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("recorded data %s: %w", file, err), f.Close())
	}
	return dataFile{z, z, f}, nil
}

// dataFile is an open file and, maybe, what unpacks it.
type dataFile struct {
	io.Reader
	unpack io.Closer
	file   io.Closer
}

// Close ends both.
func (d dataFile) Close() error {
	var err error
	if d.unpack != nil {
		err = d.unpack.Close()
	}
	return errors.Join(err, d.file.Close())
}
