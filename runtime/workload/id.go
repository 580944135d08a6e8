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

// Validate refuses ids that could escape a directory when used as a file name.
func (id ID) Validate() error {
	for what, s := range map[string]string{"namespace": id.Namespace, "container id": id.Container} {
		switch {
		case s == "":
			return fmt.Errorf("%s is empty", what)
		case len(s) > maxID:
			return fmt.Errorf("%s is %d bytes long, the most is %d", what, len(s), maxID)
		case s == "." || s == "..", strings.ContainsAny(s, "/\x00\n"):
			return fmt.Errorf("%s %q has characters that no containerd id has", what, s)
		}
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
