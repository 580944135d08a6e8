package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/test/e2e/harness"
)

// specType is how containerd names an OCI spec.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// spec is an OCI spec as plain JSON, for what no flag of ctr can say.
type spec map[string]any

// at walks to a nested object, making it where it is missing.
func (s spec) at(path ...string) spec {
	for _, key := range path {
		next, ok := s[key].(map[string]any)
		if !ok {
			next = make(map[string]any)
			s[key] = next
		}
		s = next
	}
	return s
}

// create makes a container of the busybox image whose spec edit has changed, and no task yet. It is removed with t.
func (h *host) create(t testing.TB, runtime string, edit func(spec), args ...string) (client.Container, error) {
	t.Helper()
	return h.createWith(t, runtime, nil, edit, args...)
}

// createWith is create with options for the runtime, which ctr has flags for only where the runtime is the stock one.
func (h *host) createWith(t testing.TB, runtime string, with proto.Message, edit func(spec), args ...string) (client.Container, error) {
	t.Helper()
	ctx := h.context(t)
	image, err := h.Client().GetImage(ctx, harness.Image("busybox"))
	if err != nil {
		t.Fatal(err)
	}
	id := h.newID("spec")
	generated, err := oci.GenerateSpec(ctx, h.Client(), &containers.Container{ID: id}, oci.WithRootFSPath("rootfs"), oci.WithDefaultPathEnv, oci.WithProcessArgs(args...))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(generated)
	if err != nil {
		t.Fatal(err)
	}
	var s spec
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	edit(s)
	if body, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.remove(id) })
	chosen := client.WithRuntime(runtime, nil)
	if with != nil {
		chosen = client.WithRuntime(runtime, with)
	}
	return h.Client().NewContainer(ctx, id, client.WithImage(image), client.WithNewSnapshot(id, image), chosen,
		func(_ context.Context, _ *client.Client, c *containers.Container) error {
			c.Spec = &anypb.Any{TypeUrl: specType, Value: body}
			return nil
		})
}

// outcome is how a container of runSpec ended.
type outcome struct {
	id     string
	output string
	stderr string
	code   uint32
	err    error // it could not be created or started
}

// runSpec runs a container of create to its end and deletes its task.
func (h *host) runSpec(t testing.TB, runtime string, edit func(spec), args ...string) outcome {
	t.Helper()
	return h.runSpecWith(t, runtime, nil, edit, args...)
}

func (h *host) runSpecWith(t testing.TB, runtime string, with proto.Message, edit func(spec), args ...string) outcome {
	t.Helper()
	c, err := h.createWith(t, runtime, with, edit, args...)
	if err != nil {
		return outcome{err: err}
	}
	o := outcome{id: c.ID()}
	ctx := h.context(t)
	var out, said bytes.Buffer
	task, err := c.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, &out, &said)))
	if err != nil {
		o.err = err
		return o
	}
	exits, err := task.Wait(ctx)
	if err == nil {
		err = task.Start(ctx)
	}
	if err == nil {
		select {
		case s := <-exits:
			o.code, err = s.ExitCode(), s.Error()
		case <-time.After(30 * time.Second):
			err = errors.New("it does not end")
		}
	}
	if err == nil {
		task.IO().Wait() // Delete would cut the output short
	}
	_, derr := task.Delete(ctx, client.WithProcessKill)
	o.err, o.output, o.stderr = errors.Join(err, derr), out.String(), said.String()
	return o
}

// createTask creates the task of c and does not start it.
func (h *host) createTask(t testing.TB, c client.Container) client.Task {
	t.Helper()
	task, err := c.NewTask(h.context(t), cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	return task
}
