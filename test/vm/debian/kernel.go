package debian

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Offsets in the header of an x86 kernel image, as the kernel's boot protocol documents them.
const (
	setupSectors  = 0x1f1
	headerMagic   = 0x202 // "HdrS"
	protocol      = 0x206
	payloadOffset = 0x248
	payloadLength = 0x24c
	headerEnd     = 0x250
	sector        = 512
)

// vmlinux takes the kernel proper out of a compressed image: unpacking it under emulation costs seconds at each boot.
func vmlinux(image []byte) ([]byte, error) {
	if len(image) < headerEnd || string(image[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, errors.New("not an x86 kernel image")
	}
	if v := binary.LittleEndian.Uint16(image[protocol:]); v < 0x208 {
		return nil, fmt.Errorf("boot protocol %#x does not tell where the kernel is", v)
	}
	sectors := int(image[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	begin := (sectors+1)*sector + int(binary.LittleEndian.Uint32(image[payloadOffset:]))
	size := int(binary.LittleEndian.Uint32(image[payloadLength:]))
	if begin > len(image) || size > len(image)-begin || size < 4 {
		return nil, errors.New("the kernel image is cut short")
	}
	// The last four bytes are the size that it unpacks to.
	payload, want := image[begin:begin+size-4], int64(binary.LittleEndian.Uint32(image[begin+size-4:]))
	if !bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return nil, fmt.Errorf("the kernel is compressed with something other than zstd (%x)", payload[:min(4, len(payload))])
	}
	reader, err := zstd.NewReader(bytes.NewReader(payload), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<31))
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	var kernel bytes.Buffer
	if _, err := io.CopyN(&kernel, reader, want); err != nil {
		return nil, fmt.Errorf("unpack the kernel: %w", err)
	}
	if !bytes.HasPrefix(kernel.Bytes(), []byte("\x7fELF")) {
		return nil, errors.New("the unpacked kernel is not an ELF file")
	}
	return kernel.Bytes(), nil
}
