package workload

import (
	"fmt"
	"strings"
)

// Way is what a tunnel has to be for some of a workload's requests: what of a profile the choice of a tunnel depends on.
type Way struct {
	Encryption string // none, standard or strong
	Dedicated  bool
	User       string // whose a dedicated one is
	Endpoint   string // name of a tunnel or of a class; empty: any
}

// MaxWay bounds what String returns, in bytes.
const MaxWay = 512

// String is the way in words, from which ParseWay makes it again: "standard endpoint=eu dedicated=alice".
func (w Way) String() string {
	text := w.Encryption
	if w.Endpoint != "" {
		text += " endpoint=" + w.Endpoint
	}
	if w.Dedicated {
		text += " dedicated=" + w.User // the last: a user's name may hold anything
	}
	return text
}

// ParseWay reads what String wrote.
func ParseWay(s string) (w Way, err error) {
	if len(s) > MaxWay {
		return Way{}, fmt.Errorf("a way of %d bytes, the most is %d", len(s), MaxWay)
	}
	var rest string
	w.Encryption, rest, _ = strings.Cut(s, " ")
	if endpoint, ok := strings.CutPrefix(rest, "endpoint="); ok {
		w.Endpoint, rest, _ = strings.Cut(endpoint, " ")
	}
	if w.User, w.Dedicated = strings.CutPrefix(rest, "dedicated="); !w.Dedicated {
		w.User = ""
	}
	if w.String() != s {
		return Way{}, fmt.Errorf("%.80q is no way", s)
	}
	return w, nil
}
