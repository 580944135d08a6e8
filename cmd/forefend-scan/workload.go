package main

import (
	"context"
	"flag"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/memory"
	"forefend.dev/forefend/predictor/scan/needs"
	"forefend.dev/forefend/predictor/scan/sinks"
)

// setting is what the scan is told about where the container will run.
type setting struct {
	cores   int
	memory  int64    // bytes of the node
	limit   int64    // bytes that the container may use; 0: not known
	exposed []string // ports that the image names: 80, 53/udp
}

func (s *setting) register(flags *flag.FlagSet) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		s.memory = int64(info.Totalram) * int64(info.Unit)
	}
	flags.IntVar(&s.cores, "node-cores", runtime.NumCPU(), "cores of the node that the container will run on")
	flags.Int64Var(&s.memory, "node-memory", s.memory, "bytes of memory of that node")
	flags.Int64Var(&s.limit, "memory-limit", 0, "bytes that the container may use; 0: not known")
	flags.Func("expose", "port that the image exposes, as 80 or 53/udp", func(port string) error {
		s.exposed = append(s.exposed, strings.ToLower(port))
		return nil
	})
}

// prior says what memory the command will take.
func prior(_ context.Context, in input, s *evidence.Scan) error {
	node := memory.Node{Cores: in.where.cores, Memory: in.where.memory, Limit: in.where.limit}
	s.Memory = memory.Prior(in.root, in.req.Command, in.req.Env, node, s.Programs)
	return nil
}

// wants says which capabilities and ports the command will use.
func wants(_ context.Context, in input, s *evidence.Scan) error {
	s.Ports = needs.Ports(in.root, in.req.Command, in.req.Env, in.where.exposed)
	s.Capabilities = needs.Capabilities(in.root, in.req.Command, in.req.Env, s.Programs, s.Ports)
	return nil
}

// eats says which resources of the node the command may exhaust.
func eats(_ context.Context, in input, s *evidence.Scan) error {
	node := sinks.Node{Cores: in.where.cores, Memory: in.where.memory}
	s.Sinks = sinks.Find(in.root, in.req.Command, in.req.Env, in.req.Cwd, s.Programs, node)
	return nil
}
