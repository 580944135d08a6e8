package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// server is a real server and what a client does to it.
type server struct {
	name  string
	stop  unix.Signal
	load  string // what load does, in words
	ready func(ctx context.Context, pid uint32) error
	drive func(ctx context.Context, pid uint32) (string, error) // returns the throughput, in words
}

func redis() server {
	rate := regexp.MustCompile(`(SET|GET): ([0-9.]+) requests per second`)
	return server{
		name: "redis", stop: unix.SIGTERM, load: "redis-benchmark, 50 clients, 150,000 SETs and 150,000 GETs",
		ready: func(ctx context.Context, pid uint32) error {
			_, err := inNetwork(ctx, pid, "redis-cli", "ping")
			return err
		},
		drive: func(ctx context.Context, pid uint32) (string, error) {
			text, err := inNetwork(ctx, pid, "redis-benchmark", "-q", "-t", "set,get", "-n", "150000", "-d", "256", "-r", "20000")
			var rates []string
			for _, m := range rate.FindAllStringSubmatch(text, -1) {
				rates = append(rates, fmt.Sprintf("%s %s/s", m[1], strings.SplitN(m[2], ".", 2)[0]))
			}
			if err == nil && len(rates) != 2 {
				err = fmt.Errorf("redis-benchmark printed %q", text)
			}
			return strings.Join(rates, ", "), err
		},
	}
}

func nginx() server {
	rate := regexp.MustCompile(`Requests/sec:\s+([0-9]+)`)
	return server{
		name: "nginx", stop: unix.SIGQUIT, load: "wrk, 16 connections for 4 seconds",
		ready: func(ctx context.Context, pid uint32) error {
			const get = `exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET /small.txt HTTP/1.0\r\n\r\n' >&3; grep -q '200 OK' <&3`
			_, err := inNetwork(ctx, pid, "bash", "-c", get)
			return err
		},
		drive: func(ctx context.Context, pid uint32) (string, error) {
			text, err := inNetwork(ctx, pid, "wrk", "-t1", "-c16", "-d4s", "http://127.0.0.1/small.txt")
			m := rate.FindStringSubmatch(text)
			if err == nil && m == nil || strings.Contains(text, "Socket errors") || strings.Contains(text, "Non-2xx") {
				return "", fmt.Errorf("wrk printed %q", text)
			}
			if err != nil {
				return "", err
			}
			return m[1] + "/s", nil
		},
	}
}

// lesson is one run of a server and what Forefend made of it.
type lesson struct {
	container api.Container // as `forefend ps` showed it under load
	used      workload.Usage
	next      workload.Prediction // for the run after this one
	rate      string
	exit      uint32
}

// learn runs a server several times under load and prints a line for each run.
func (d *demo) learn(ctx context.Context, s server) error {
	d.step("%s, %d runs under Forefend, each with real load", s.name, d.runs)
	d.say("  Load: %s.", s.load)
	d.say("  predicted / used / enforced; ~ is a soft limit, - is none. unseen: the chance that the next run")
	d.say("  makes a call that none made before. sealed: dangerous calls that no run made are now surprises.")
	d.say("")
	d.say("  %-4s %-20s %-15s %-10s %-7s %-7s %s", "run", "memory", "cpus", "pids", "sealed", "unseen", "throughput")
	var first, last lesson
	for i := range d.runs {
		l, err := d.once(ctx, s, fmt.Sprintf("%s-%d", s.name, i+1))
		if err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
		d.say("  %-4d %s", i+1, l.line())
		if i == 0 {
			first = l
		}
		last = l
	}
	d.say("")
	c := last.container
	p := first.container.Prediction
	d.claim(p.Level != exact && !first.container.Sealed, "run 1 had no history of its own (%s) and was not sealed", borrowed(p))
	d.claim(c.Prediction.Level == exact && c.Prediction.Runs == d.runs-1, "run %d was decided from the %d before it", d.runs, d.runs-1)
	d.claim(c.Sealed, "run %d is sealed", d.runs)
	d.claim(last.used.MemoryPeak > 0 && last.used.CPUPeak > 0 && last.used.PIDsPeak > 0, "what it used was measured")
	d.claim(float64(last.used.MemoryPeak) <= c.Prediction.Memory.Value, "its memory peak stayed under the predicted %s", output.Bytes(int64(c.Prediction.Memory.Value)))
	if hard := c.Limits.Memory; hard > 0 {
		d.claim(float64(hard) > c.Prediction.Memory.Value, "a memory limit of %s is enforced (raised before it is reached: nothing is killed by a mere prediction)", output.Bytes(hard))
	} else {
		d.claim(c.Limits.MemorySoft > 0, "a memory limit is enforced (soft: nothing is killed by a mere prediction)")
	}
	d.claim(c.Limits.PIDs > 0, "a limit of %d processes is enforced", c.Limits.PIDs)
	d.claim(last.exit == 0, "it served its load under the sealed policy and ended in order")
	return nil
}

// exact is the level of a history of the same image and command.
var exact = workload.LevelDigestCommand.String()

func borrowed(p workload.Prediction) string {
	if p.Runs == 0 {
		return "nothing is known on this node"
	}
	return fmt.Sprintf("borrowed: %d runs of its %s", p.Runs, p.Level)
}

// once is one run: start, load, ask what Forefend sees, stop, ask what it learned.
func (d *demo) once(ctx context.Context, s server, id string) (lesson, error) {
	c, err := d.start(ctx, forefendRuntime, s.name, id)
	if err != nil {
		return lesson{}, err
	}
	if err := until(ctx, func() error { return s.ready(ctx, c.task.Pid()) }); err != nil {
		return lesson{}, fmt.Errorf("%s does not answer: %w", s.name, err)
	}
	var l lesson
	if l.rate, err = s.drive(ctx, c.task.Pid()); err != nil {
		return l, err
	}
	if l.container, err = d.seen(ctx, id); err != nil {
		return l, err
	}
	if l.exit, err = d.stop(ctx, c, s.stop); err != nil {
		return l, err
	}
	return l, d.learned(ctx, s.name, &l)
}

// seen returns the container as `forefend ps` lists it.
func (d *demo) seen(ctx context.Context, id string) (api.Container, error) {
	var list api.ListResponse
	if err := d.forefendJSON(ctx, &list, "ps"); err != nil {
		return api.Container{}, err
	}
	for _, c := range list.Containers {
		if c.ID.Container == id {
			return c, nil
		}
	}
	return api.Container{}, fmt.Errorf("forefend ps does not list %s", id)
}

// learned waits for the run's final record, which the shim delivers as the container is deleted.
func (d *demo) learned(ctx context.Context, name string, l *lesson) error {
	return until(ctx, func() error {
		var h api.HistoryResponse
		if err := d.forefendJSON(ctx, &h, "history", name); err != nil {
			return err
		}
		for _, r := range h.Runs {
			if r.Run == l.container.Run && r.Final {
				l.used, l.next = r.Usage, h.Workloads[0].Prediction
				return nil
			}
		}
		return fmt.Errorf("the history of %s has no final record of run %s", name, l.container.Run)
	})
}

func (l lesson) line() string {
	p, limits := l.container.Prediction, l.container.Limits
	memory := output.Bytes(limits.Memory)
	if limits.Memory <= 0 && limits.MemorySoft > 0 {
		memory = "~" + output.Bytes(limits.MemorySoft)
	}
	sealed := "no"
	if l.container.Sealed {
		sealed = "yes"
	}
	return fmt.Sprintf("%-20s %-15s %-10s %-7s %-7s %s",
		triple(output.Bytes(int64(p.Memory.Value)), output.Bytes(l.used.MemoryPeak), memory),
		triple(output.CPUs(p.CPU.Value), output.CPUs(l.used.CPUPeak), output.CPUs(limits.CPUs)),
		triple(output.Count(int64(p.PIDs.Value)), output.Count(l.used.PIDsPeak), output.Count(limits.PIDs)),
		sealed, output.Percent(l.next.Unseen), l.rate)
}

func triple(predicted, used, enforced string) string {
	return predicted + "/" + used + "/" + enforced
}
