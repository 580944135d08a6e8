package link

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// lists is how often a list is asked for that changes while it is read.
const lists = 10

// Whole has the kernel list something, anew as long as that changed while it was read: on a node devices come and go all the time, and what
// is missing from the list may be what is looked for.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range lists {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
