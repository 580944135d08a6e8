package http1

// Chunks follows a chunked body (RFC 9112, 7.1). The zero value stands at its beginning.
type Chunks struct {
	state chunkState
	left  int64 // of the chunk's data
	line  int   // bytes of the size line, or of all trailers, so far
	size  int   // digits of the size so far
}

type chunkState uint8

const (
	inSize chunkState = iota
	inPad             // white space after the size, which some servers write
	inExtension
	atSizeLF
	inData
	atDataCR
	atDataLF
	atTrailer // where a trailer's line, or the last line, begins
	inTrailerName
	inTrailerValue
	atTrailerLF
	atLastLF
	ended
)

const (
	maxSizeDigits = 15       // hexadecimal: below 2^60 bytes
	maxSizeLine   = 4 << 10  // bytes, with extensions
	maxTrailers   = 16 << 10 // bytes
)

// Left is how many bytes of data come next, which need not be looked at: Skip takes them.
func (c *Chunks) Left() int64 {
	if c.state == inData {
		return c.left
	}
	return 0
}

// Skip says that n bytes of data went by, at most Left.
func (c *Chunks) Skip(n int64) {
	if c.left -= n; c.left == 0 {
		c.state = atDataCR
	}
}

// Feed follows p. It returns how many of its bytes belong to the body, fewer than len(p) only when the body is done. The
// error is a *Fault.
func (c *Chunks) Feed(p []byte) (n int, done bool, err error) {
	for n < len(p) && c.state != ended {
		if c.state == inData {
			took := min(c.left, int64(len(p)-n))
			n += int(took)
			c.Skip(took)
			continue
		}
		if !c.step(p[n]) {
			return n, false, fault(BadChunk)
		}
		n++
	}
	return n, c.state == ended, nil
}

// step follows one byte outside of data.
func (c *Chunks) step(b byte) bool {
	c.line++
	switch c.state {
	case inSize:
		digit, ok := hex(b)
		switch {
		case ok && c.size < maxSizeDigits:
			c.left = c.left<<4 | digit
			c.size++
			return true
		case ok || c.size == 0:
			return false
		}
		return c.afterSize(b)
	case inPad:
		return c.line <= maxSizeLine && c.afterSize(b)
	case inExtension:
		if b == '\r' {
			c.state = atSizeLF
			return true
		}
		return c.line <= maxSizeLine && classes[b]&text != 0
	case atSizeLF:
		c.state, c.line, c.size = inData, 0, 0
		if c.left == 0 {
			c.state = atTrailer
		}
		return b == '\n'
	case atDataCR:
		c.state = atDataLF
		return b == '\r'
	case atDataLF:
		c.state, c.line = inSize, 0
		return b == '\n'
	case atTrailer:
		if b == '\r' {
			c.state = atLastLF
			return true
		}
		c.state = inTrailerName
		return c.line <= maxTrailers && classes[b]&token != 0
	case inTrailerName:
		if b == ':' {
			c.state = inTrailerValue
			return true
		}
		return c.line <= maxTrailers && classes[b]&token != 0
	case inTrailerValue:
		if b == '\r' {
			c.state = atTrailerLF
			return true
		}
		return c.line <= maxTrailers && classes[b]&text != 0
	case atTrailerLF:
		c.state = atTrailer
		return b == '\n'
	case atLastLF:
		c.state = ended
		return b == '\n'
	}
	return false
}

// afterSize follows what comes after a chunk's size.
func (c *Chunks) afterSize(b byte) bool {
	switch b {
	case ' ', '\t':
		c.state = inPad
	case ';':
		c.state = inExtension
	case '\r':
		c.state = atSizeLF
	default:
		return false
	}
	return true
}

func hex(b byte) (int64, bool) {
	switch {
	case '0' <= b && b <= '9':
		return int64(b - '0'), true
	case 'a' <= b && b <= 'f':
		return int64(b-'a') + 10, true
	case 'A' <= b && b <= 'F':
		return int64(b-'A') + 10, true
	}
	return 0, false
}
