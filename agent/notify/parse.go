package notify

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	api "forefend.dev/forefend/agent/api/v1"
)

// Bounds of one message.
const (
	MaxMessage  = 4 << 10
	maxStatus   = 256 // bytes of a status line that are kept
	maxSettings = 16  // of one FOREFEND_REQUEST
)

// Parse reads one message: lines of NAME=value, of which those that are not known are ignored, as sd_notify(3)
// has it. The events have kind and text only. An error says what is malformed; nothing of such a message is used.
func Parse(message []byte) ([]api.Event, error) {
	if len(message) > MaxMessage {
		return nil, fmt.Errorf("a message of %d bytes, the most is %d", len(message), MaxMessage)
	}
	if !utf8.Valid(message) || bytes.IndexByte(message, 0) >= 0 {
		return nil, fmt.Errorf("a message that is not text")
	}
	var events []api.Event
	for line := range strings.SplitSeq(string(message), "\n") {
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		switch name {
		case "READY", "RELOADING", "STOPPING":
			if value == "1" {
				events = append(events, api.Event{Kind: strings.ToLower(name)})
			}
		case "STATUS":
			events = append(events, api.Event{Kind: api.EventStatus, Text: printable(value)})
		case "FOREFEND_REQUEST":
			asked, err := settings(value)
			if err != nil {
				return nil, err
			}
			events = append(events, api.Event{Kind: api.EventAsked, Asked: asked})
		}
		if len(events) > maxSettings {
			return nil, fmt.Errorf("a message of more than %d statements", maxSettings)
		}
	}
	return events, nil
}

// settings reads "memory=256Mi syscalls.deny=ptrace,bpf".
func settings(s string) (map[string]string, error) {
	asked := make(map[string]string)
	for word := range strings.FieldsSeq(s) {
		key, value, ok := strings.Cut(word, "=")
		if !ok || !plain(key) || value == "" {
			return nil, fmt.Errorf("FOREFEND_REQUEST: %.60q is not key=value", word)
		}
		if _, again := asked[key]; again {
			return nil, fmt.Errorf("FOREFEND_REQUEST: %s twice", key)
		}
		if len(asked) == maxSettings {
			return nil, fmt.Errorf("FOREFEND_REQUEST: more than %d settings", maxSettings)
		}
		asked[key] = value
	}
	if len(asked) == 0 {
		return nil, fmt.Errorf("FOREFEND_REQUEST: nothing is asked for")
	}
	return asked, nil
}

// plain tells whether key has the form of an annotation's name.
func plain(key string) bool {
	return key != "" && len(key) <= 40 && !strings.ContainsFunc(key, func(r rune) bool {
		return r != '_' && r != '.' && r != '/' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// printable is a status line fit for logs and terminals.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxStatus {
		s = strings.ToValidUTF8(s[:maxStatus], "")
	}
	return s
}
