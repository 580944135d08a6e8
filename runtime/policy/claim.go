package policy

import "fmt"

// Author is who makes a claim, from weakest to strongest.
type Author uint8

// The authors (DESIGN section 5).
const (
	Default    Author = iota // Forefend's and the site's defaults
	Prediction               // what history, scan, load, threat feeds and profiles suggest
	Request                  // the OCI spec and forefend.dev annotations
	Operator                 // forefend set
	Guardrail                // site floors and ceilings; makes Guards, wins Fields
)

var authorNames = words{"default", "prediction", "request", "operator", "guardrail"}

// String returns the author's name as explain prints it.
func (a Author) String() string {
	if int(a) < len(authorNames) {
		return authorNames[a]
	}
	return fmt.Sprintf("author(%d)", uint8(a))
}

// MarshalText makes the name, not the number, the persisted form.
func (a Author) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads a name written by MarshalText.
func (a *Author) UnmarshalText(b []byte) error {
	v, err := authorNames.parse(string(b))
	if err != nil {
		return fmt.Errorf("author: %w", err)
	}
	*a = Author(v)
	return nil
}

// Origin is where a value comes from.
type Origin struct {
	Author Author `json:"author"`
	Source string `json:"source"` // the input: "spec", "annotation forefend.dev/pids", "history image+command, 5 runs"
	Reason string `json:"reason,omitempty"`
	// Revision is that of the running container's policy at which it was claimed; 0: at Create.
	Revision int `json:"revision,omitempty"`
}

// Claim is one author's wish for one key.
type Claim struct {
	Key   Key
	Value Value
	Origin
	// Amends marks a requested policy modification (an annotation): it may
	// always tighten what would hold without it, and loosen it only where the
	// profile grants that. It means nothing on the claims of other authors.
	Amends bool
	// rank orders claims that one author makes for one key: the highest holds.
	// Site.Input sets it for a site's and a profile's defaults.
	rank uint8
}

func (c *Claim) amends() bool { return c.Amends && c.Author == Request }

// seen reports whether c says what the running container was seen to need: it replaces what was predicted at Create.
func (c *Claim) seen() bool { return c.Author == Prediction && c.Revision > 0 }

// Guard is a site's floor and ceiling for a key. Ceiling is the loosest value
// allowed, Floor the tightest; nil leaves that side open. Where they contradict,
// the ceiling holds.
type Guard struct {
	Key     Key
	Floor   *Value
	Ceiling *Value
	Source  string // "config.toml [guardrails]", "profile web"
}

// Prefer is a conflict rule between request and prediction.
type Prefer string

// The conflict rules. Whatever the rule, a value that only one side claims is
// that side's. PreferPrediction is a site's explicit choice to let the
// prediction override requests inside the guardrails, like a vertical
// autoscaler does.
const (
	PreferRequest    Prefer = "request"
	PreferStrictest  Prefer = "strictest"
	PreferPrediction Prefer = "prediction"
)

// ParsePrefer reads a conflict rule.
func ParsePrefer(s string) (Prefer, error) {
	switch p := Prefer(s); p {
	case PreferRequest, PreferStrictest, PreferPrediction:
		return p, nil
	}
	return "", fmt.Errorf("%q is not one of request, strictest, prediction", s)
}

// DefaultPrefer is the conflict rule of a dimension for which the site has
// configured none.
func DefaultPrefer(d Dimension) Prefer {
	if d == Resources {
		return PreferRequest
	}
	return PreferStrictest
}
