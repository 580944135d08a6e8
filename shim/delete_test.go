package shim

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"

	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

// slow is a task service whose Delete takes its time.
type slow struct {
	taskv3.TTRPCTaskService
	finish chan struct{}
	calls  chan string
}

func (s *slow) Delete(context.Context, *taskv3.DeleteRequest) (*taskv3.DeleteResponse, error) {
	<-s.finish
	s.calls <- "deleted"
	return &taskv3.DeleteResponse{}, nil
}

func (s *slow) Pids(context.Context, *taskv3.PidsRequest) (*taskv3.PidsResponse, error) {
	s.calls <- "pids"
	return &taskv3.PidsResponse{}, nil
}

// A containerd that was restarted asks for the processes of a container that is just being deleted.
func TestPidsWaitForDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &slow{finish: make(chan struct{}), calls: make(chan string, 4)}
		s := &Service{TTRPCTaskService: inner, containers: make(map[string]*container), exits: newExits(nil), cfg: Config{Containers: record.Dir(t.TempDir())}}
		if err := s.add(&container{id: workload.ID{Namespace: "default", Container: "web"}}); err != nil {
			t.Fatal(err)
		}
		pids := func(ctx context.Context) {
			if _, err := s.Pids(ctx, &taskv3.PidsRequest{ID: "web"}); err != nil {
				t.Error(err)
			}
		}
		pids(t.Context())
		go func() {
			if _, err := s.Delete(t.Context(), &taskv3.DeleteRequest{ID: "web"}); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		impatient, stop := context.WithCancel(t.Context())
		stop()
		pids(impatient)
		go pids(t.Context())
		synctest.Wait()
		close(inner.finish)
		synctest.Wait()
		close(inner.calls)
		var calls []string
		for c := range inner.calls {
			calls = append(calls, c)
		}
		if want := []string{"pids", "pids", "deleted", "pids"}; !slices.Equal(calls, want) {
			t.Errorf("%q, want %q", calls, want)
		}
	})
}

// forgetful is a task service whose runc has deleted the container.
type forgetful struct{ taskv3.TTRPCTaskService }

func (forgetful) Pids(context.Context, *taskv3.PidsRequest) (*taskv3.PidsResponse, error) {
	return nil, errors.New("runc did not terminate successfully: exit status 1: container does not exist\n")
}

func TestPidsOfWhatRuncForgot(t *testing.T) {
	s := &Service{TTRPCTaskService: forgetful{}, containers: make(map[string]*container)}
	if resp, err := s.Pids(t.Context(), &taskv3.PidsRequest{ID: "web"}); err != nil || len(resp.Processes) != 0 {
		t.Errorf("got %v, %v", resp, err)
	}
}
