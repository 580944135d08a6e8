package store

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// complaints collects what the engine logs at warning level and above. It implements the
// engine's logger interface; everything less important is dropped.
type complaints struct {
	mu    sync.Mutex
	lines []string // guarded by mu; the first maxComplaints
}

const maxComplaints = 64

func (c *complaints) add(format string, v ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lines) < maxComplaints {
		c.lines = append(c.lines, fmt.Sprintf(format, v...))
	}
}

// Warnf implements the engine's logger.
func (c *complaints) Warnf(format string, v ...any) { c.add(format, v...) }

// Errorf implements the engine's logger.
func (c *complaints) Errorf(format string, v ...any) { c.add(format, v...) }

// Fatalf implements the engine's logger; the engine returns an error as well.
func (c *complaints) Fatalf(format string, v ...any) { c.add(format, v...) }

// Noticef implements the engine's logger.
func (c *complaints) Noticef(string, ...any) {}

// Debugf implements the engine's logger.
func (c *complaints) Debugf(string, ...any) {}

// Tracef implements the engine's logger.
func (c *complaints) Tracef(string, ...any) {}

func (c *complaints) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

func (c *complaints) suffix() string {
	if lines := c.all(); len(lines) > 0 {
		return ": " + strings.Join(lines, "; ")
	}
	return ""
}
