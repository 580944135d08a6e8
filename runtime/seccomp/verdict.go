package seccomp

import "fmt"

// Verdict is what happens to a system call. A larger one is looser, so the
// stricter of two verdicts is their minimum.
type Verdict uint8

const (
	// Kill ends the calling process.
	Kill Verdict = iota
	// Deny answers an errno; the attempt is counted and reported.
	Deny
	// Watch lets the call pass through the supervisor, which can change its mind.
	Watch
	// Native lets the kernel run the call without asking anybody.
	Native
)

var verdictNames = [...]string{Kill: "kill", Deny: "deny", Watch: "watch", Native: "native"}

// String returns the word that people and JSON use for v.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// MarshalText writes v as its word; it fails for a value outside the four.
func (v Verdict) MarshalText() ([]byte, error) {
	if int(v) >= len(verdictNames) {
		return nil, fmt.Errorf("seccomp verdict %d is unknown", uint8(v))
	}
	return []byte(verdictNames[v]), nil
}

// UnmarshalText reads the word that MarshalText writes.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("seccomp verdict %q is not one of kill, deny, watch, native", text)
}
