package openvpn

import (
	"bytes"
	"strings"
	"sync"
)

// said keeps of what a process logs the last line, and what explains a failure best. It is a writer for its output.
type said struct {
	mu   sync.Mutex
	part []byte // of a line; guarded by mu, as is all
	line string
	rank int // of what text is: its place among the causes
	text string
}

// Write implements io.Writer.
func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		s.take(string(append(s.part, b[:i]...)))
		s.part, b = s.part[:0], b[i+1:]
	}
	s.part = append(s.part, b[:min(len(b), maxLine-len(s.part))]...)
	return n, nil
}

// hear takes a line.
func (s *said) hear(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(line)
}

func (s *said) take(line string) {
	if line = strings.TrimSpace(line); line == "" {
		return
	}
	if means, at := cause(line); means != "" && (s.text == "" || at < s.rank) {
		s.text, s.rank = means, at
	}
	s.line = line
}

// why is what explains a failure, "" for nothing.
func (s *said) why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text
}

// last is what explains a failure, or else what was said last.
func (s *said) last() string {
	if why := s.why(); why != "" {
		return why
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		return "it was killed"
	}
	return clip(s.line)
}

// forget forgets what went wrong: by now it goes right.
func (s *said) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.line = "", ""
}
