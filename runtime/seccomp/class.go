package seccomp

import (
	"fmt"
	"strings"
	"sync"
)

// Class says how much attention a system call deserves, whoever makes it.
type Class uint8

const (
	// ClassHot calls are benign and frequent: native from the first run.
	ClassHot Class = iota + 1
	// ClassBenign calls are harmless but not frequent: watched until learned.
	ClassBenign
	// ClassSensitive calls are legal for ordinary programs, rare, and matter in an
	// attack: they stay watched for good, so that they stay switchable.
	ClassSensitive
	// ClassDangerous calls need something that speaks for them.
	ClassDangerous
)

var classNames = [...]string{ClassHot: "hot", ClassBenign: "benign", ClassSensitive: "sensitive", ClassDangerous: "dangerous"}

// String returns the word that people and JSON use for c.
func (c Class) String() string {
	if c >= ClassHot && int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// MarshalText writes c as its word; it fails for a value outside the four.
func (c Class) MarshalText() ([]byte, error) {
	if c < ClassHot || int(c) >= len(classNames) {
		return nil, fmt.Errorf("seccomp class %d is unknown", uint8(c))
	}
	return []byte(classNames[c]), nil
}

// UnmarshalText reads the word that MarshalText writes.
func (c *Class) UnmarshalText(text []byte) error {
	for i, name := range classNames {
		if name != "" && name == string(text) {
			*c = Class(i)
			return nil
		}
	}
	return fmt.Errorf("seccomp class %q is not one of hot, benign, sensitive, dangerous", text)
}

// Classify returns the class of the named call. A name in no list (a call newer
// than this program) is sensitive: ordinary programs may use it, watched.
func Classify(name string) Class {
	if c, ok := classByCall()[name]; ok {
		return c
	}
	return ClassSensitive
}

// Indispensable reports whether a denial of the named call would keep every container from starting, or break what the
// kernel does on its behalf.
func Indispensable(name string) bool { return indispensable(name) }

// indispensable reports whether runc itself needs the call between loading the
// filter and handing the listener over (a notification then would wait for ever),
// or the kernel makes it on the program's behalf (signal return, uprobes).
func indispensable(name string) bool { return indispensableCalls()[name] }

// Foothold reports whether the named call is what an intruder in a serving process makes to stay or to get further, and hardly
// a server that never made it before: another program, another listening socket, a device, another root.
func Foothold(name string) bool { return footholds()[name] }

var footholds = sync.OnceValue(func() map[string]bool {
	m := make(map[string]bool)
	for name := range strings.FieldsSeq(footholdCalls) {
		m[name] = true
	}
	return m
})

var classByCall = sync.OnceValue(func() map[string]Class {
	m := make(map[string]Class, 512)
	for c, calls := range map[Class]string{
		ClassHot: hotCalls, ClassBenign: benignCalls, ClassSensitive: sensitiveCalls, ClassDangerous: dangerousCalls,
	} {
		for name := range strings.FieldsSeq(calls) {
			m[name] = c
		}
	}
	return m
})

var indispensableCalls = sync.OnceValue(func() map[string]bool {
	m := make(map[string]bool)
	for name := range strings.FieldsSeq(handshakeCalls) {
		m[name] = true
	}
	return m
})
