package shim

import (
	"context"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// taskV2 is the name under which containerd before 2.0 calls the task service.
// Its messages are those of version 3 on the wire.
const taskV2 = "containerd.task.v2.Task"

// registerV2 serves s under the older name beside the newer one.
func registerV2(server *ttrpc.Server, s taskv3.TTRPCTaskService) {
	server.RegisterService(taskV2, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State":      unary(s.State),
		"Create":     unary(s.Create),
		"Start":      unary(s.Start),
		"Delete":     unary(s.Delete),
		"Pids":       unary(s.Pids),
		"Pause":      unary(s.Pause),
		"Resume":     unary(s.Resume),
		"Checkpoint": unary(s.Checkpoint),
		"Kill":       unary(s.Kill),
		"Exec":       unary(s.Exec),
		"ResizePty":  unary(s.ResizePty),
		"CloseIO":    unary(s.CloseIO),
		"Update":     unary(s.Update),
		"Wait":       unary(s.Wait),
		"Stats":      unary(s.Stats),
		"Connect":    unary(s.Connect),
		"Shutdown":   unary(s.Shutdown),
	}})
}

func unary[Req, Resp any](call func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Req)
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		resp, err := call(ctx, req)
		if err != nil {
			return nil, err // a typed nil would not be one to ttrpc
		}
		return resp, nil
	}
}
