package workload

import (
	"fmt"
	"strings"
)

// maxID bounds a namespace or container id; containerd itself allows 76 bytes.
const maxID = 128

// ID names one container on one containerd: the containerd namespace and the
// container id inside it.
type ID struct {
	Namespace string `json:"namespace"`
	Container string `json:"container"`
}

// String returns "namespace/container".
func (id ID) String() string { return id.Namespace + "/" + id.Container }

// Validate refuses ids that could escape a directory when used as a file name,
// or a line when printed. What containerd accepts as an id passes.
func (id ID) Validate() error {
	if err := validate("namespace", id.Namespace); err != nil {
		return err
	}
	return validate("container id", id.Container)
}

func validate(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty", what)
	case len(s) > maxID:
		return fmt.Errorf("%s is %d bytes long, the most is %d", what, len(s), maxID)
	case s == "." || s == "..", strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }):
		return fmt.Errorf("%s %q has characters that no containerd id has", what, s)
	}
	return nil
}

// ParseID reads "namespace/container"; without a slash the namespace is
// fallback.
func ParseID(s, fallback string) (ID, error) {
	id := ID{Namespace: fallback, Container: s}
	if ns, c, ok := strings.Cut(s, "/"); ok {
		id = ID{Namespace: ns, Container: c}
	}
	return id, id.Validate()
}
