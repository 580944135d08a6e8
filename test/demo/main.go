// Command demo shows Forefend's main job on real servers, step by step: redis and nginx run several times under load,
// Forefend learns, predicts and seals, explains itself, stops an attack, changes running containers, and leads each request of one
// out by the tunnel its policy demands. `make run` runs it.
//
// It uses containerds of its own (test/e2e/harness) and ends with a non-zero status when a step does not show what it
// claims, or when anything it started is left over. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

func main() {
	runs := flag.Int("runs", 5, "how often each server runs; it is sealed by the fifth run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *runs)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run tells the story and takes everything down again, whatever happens.
func run(ctx context.Context, out io.Writer, runs int) error {
	begin := time.Now()
	d := &demo{narrator: narrator{out: out}, runs: runs}
	d.step("A containerd of our own, with its own root, state and socket")
	feeds, config, err := feed()
	if err != nil {
		return err
	}
	defer os.RemoveAll(feeds)
	env, err := harness.Start(ctx, harness.WithImages("redis", "nginx", "busybox"), harness.WithConfig(config))
	if err != nil {
		return err
	}
	d.env = env
	d.say("  socket         %s", env.Address)
	d.say("  configuration  %s", env.ConfigPath)
	d.say("  namespace      %s", env.Namespace)

	told := d.story(ctx)
	if told != nil {
		d.say("")
		d.say("The story ends here: %v", told)
	}
	removed := d.tidyUp()
	if err := errors.Join(told, d.failed(), removed); err != nil {
		return err
	}
	d.say("")
	d.say("Done in %.0f s.", time.Since(begin).Seconds())
	d.tryByHand()
	return nil
}

type demo struct {
	narrator
	env  *harness.Env
	runs int
}

// story is everything between set-up and tidying up.
func (d *demo) story(ctx context.Context) error {
	for _, s := range []server{redis(), nginx()} {
		if err := d.learn(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	web := nginx()
	if err := d.explain(ctx, fmt.Sprintf("%s-%d", web.name, d.runs)); err != nil {
		return err
	}
	if err := d.attack(ctx, web); err != nil {
		return err
	}
	if err := d.firstRun(ctx); err != nil {
		return fmt.Errorf("first run: %w", err)
	}
	if err := d.inherit(ctx, redis()); err != nil {
		return fmt.Errorf("second digest: %w", err)
	}
	if err := d.miner(ctx); err != nil {
		return err
	}
	if err := d.live(ctx); err != nil {
		return err
	}
	if err := d.routes(ctx); err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	return nil
}

// explain shows the decision about the last run, which is gone by now.
func (d *demo) explain(ctx context.Context, id string) error {
	d.step("Why did %s get that? forefend explain %s", id, id)
	text, err := d.forefend(ctx, "explain", id)
	if err != nil {
		return err
	}
	d.show(text)
	return nil
}

// tidyUp removes everything and says whether that is true.
func (d *demo) tidyUp() error {
	d.step("Everything is stopped and removed")
	leaks := d.leaks()
	if err := d.env.Close(); err != nil {
		d.say("  NOT removed cleanly: %v", err)
		return err
	}
	if leaks != nil {
		return leaks
	}
	d.say("  Looked for processes, mounts, cgroups, sockets, network namespaces and files: nothing is left.")
	return nil
}

// leaks looks for leftovers of the containers, while containerd and the daemon still run.
func (d *demo) leaks() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := d.env.Client().Containers(d.env.Context(ctx))
	if err != nil || len(list) > 0 {
		return err // interrupted in the middle: Close removes what runs and looks itself
	}
	left, err := d.env.Leaks(ctx)
	for _, l := range left {
		d.say("  left behind by a container: %s", l)
		err = errors.Join(err, errors.New("left behind: "+l))
	}
	return err
}

func (d *demo) tryByHand() {
	d.show(`
Try it by hand, with a containerd 2.x that is already on the machine:

  make install
  ctr image import .cache/images/redis.tar
  ctr run -d --runtime io.containerd.forefend.v1 docker.io/library/redis:latest r1
  forefend ps
  forefend explain r1
  forefend events
  forefend doctor
`)
}
