package crash

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/test/e2e/harness"
)

// opTimeout ends a call of the client that hangs. None may.
const opTimeout = 40 * time.Second

// life takes one container through its whole life, call by call, until one fails.
type life struct {
	h         *host
	runtime   string
	id, name  string // the name is in the command line, and so in the history
	container client.Container
	task      client.Task
	exits     <-chan client.ExitStatus
	started   bool
	noted     func() // called once the container runs
	said      string // by the exec
}

// lived is how a life went.
type lived struct {
	failed string // the call that failed, "" when none did
	err    error
	hung   bool
}

func (l *life) run(t testing.TB) lived {
	t.Helper()
	for _, op := range []struct {
		name string
		do   func(context.Context) error
	}{
		{opCreate, l.create}, {opStart, l.start}, {opExec, l.exec}, {opUpdate, l.update}, {opKill, l.kill}, {opDelete, l.delete},
	} {
		ctx, cancel := context.WithTimeout(l.h.Context(context.Background()), opTimeout)
		err := op.do(ctx)
		hung := ctx.Err() != nil
		cancel()
		if err != nil {
			return lived{failed: op.name, err: err, hung: hung}
		}
	}
	return lived{}
}

// prepare makes the container, which no runtime takes part in.
func (l *life) prepare(ctx context.Context) (err error) {
	c := l.h.Client()
	image, err := c.GetImage(ctx, harness.Image("busybox"))
	if err != nil {
		return err
	}
	l.container, err = c.NewContainer(ctx, l.id, client.WithImage(image), client.WithNewSnapshot(l.id, image),
		client.WithRuntime(l.runtime, nil), client.WithNewSpec(
			oci.WithImageConfigArgs(image, []string{"sh", "-c", ": " + l.name + "; trap 'exit 3' TERM; sleep 1000 & wait"}),
			oci.WithMounts([]specs.Mount{{Destination: "/probe", Type: "bind", Source: l.h.Probe(), Options: []string{"rbind", "ro"}}}),
		))
	return err
}

func (l *life) create(ctx context.Context) (err error) {
	if err := l.prepare(ctx); err != nil {
		return err
	}
	if l.task, err = l.container.NewTask(ctx, cio.NullIO); err != nil {
		return err
	}
	l.exits, err = l.task.Wait(context.WithoutCancel(ctx))
	return err
}

func (l *life) start(ctx context.Context) error {
	if err := l.task.Start(ctx); err != nil {
		return err
	}
	l.started = true
	if l.noted != nil {
		l.noted()
	}
	return nil
}

// exec runs a process that tries what the policy forbids.
func (l *life) exec(ctx context.Context) error {
	spec, err := l.container.Spec(ctx)
	if err != nil {
		return err
	}
	process := *spec.Process
	process.Args = []string{"/probe", "attack", "keyctl"}
	var out bytes.Buffer
	p, err := l.task.Exec(ctx, "x", &process, cio.NewCreator(cio.WithStreams(nil, &out, io.Discard), cio.WithFIFODir(filepath.Join(l.h.Dir, "fifo"))))
	if err != nil {
		return err
	}
	exits, err := p.Wait(ctx)
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		p.IO().Cancel()
		_, _ = p.Delete(ctx)
		return err
	}
	select {
	case s := <-exits:
		if s.Error() != nil {
			p.IO().Cancel()
			return s.Error()
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	p.IO().Wait()
	l.said = out.String()
	_, err = p.Delete(ctx)
	return err
}

func (l *life) update(ctx context.Context) error {
	limit := int64(96 << 20)
	return l.task.Update(ctx, client.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}))
}

func (l *life) kill(ctx context.Context) error {
	if err := l.task.Kill(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case s := <-l.exits:
		if s.Error() == nil && s.ExitCode() != 3 {
			return fmt.Errorf("it ended with %d", s.ExitCode())
		}
		return s.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *life) delete(ctx context.Context) error {
	if _, err := l.task.Delete(ctx); err != nil {
		return err
	}
	return l.container.Delete(ctx, client.WithSnapshotCleanup)
}
