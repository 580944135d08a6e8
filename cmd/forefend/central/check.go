package central

import (
	"fmt"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Bounds of questions, in bytes of their texts. What an agent may ask is 16 KiB; its node adds names. A message holds what fits into
// maxMessage as JSON, where a byte can be written with six.
const (
	maxQuestion = 24 << 10
	maxBatch    = 128 << 10
)

// size is how many bytes the texts of a question have.
func size(q *api.Question) int {
	c := &q.Context
	n := len(c.Container) + len(c.Namespace) + len(c.Workload) + len(c.Image) + len(c.Protocol) + len(c.User) + len(c.UserProof) +
		len(c.Data) + len(c.Label) + len(c.Operation) + len(c.Host) + len(c.Method) + len(c.Path) + len(c.Service)
	for _, name := range c.Names {
		n += len(name)
	}
	if c.Process != nil {
		n += len(c.Process.Executable)
	}
	return n
}

// check refuses what no node of ours asks.
func check(q *api.Question) error {
	if n := size(q); n > maxQuestion {
		return fmt.Errorf("the request's fields have %d bytes, the most is %d: %w", n, maxQuestion, errdefs.ErrInvalidArgument)
	}
	return nil
}
