package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"forefend.dev/forefend/runtime/policy"
)

// topKeys are the keys above the first [table].
var topKeys = []string{"root", "state", "on_unavailable", "privileged", "readonly_root", "unseen_egress", "sample", "checkpoint", "collect", "mode",
	"log_level", "log_format"}

// parse reads a whole file. It never stops at a problem, except that text that is
// not TOML has no keys to look at.
func parse(path string, data []byte) (*Config, Problems) {
	var values map[string]any
	if _, err := toml.Decode(string(data), &values); err != nil {
		return nil, Problems{syntax(path, err)}
	}
	c := Default()
	c.Path = path
	r := &reader{file: path, lines: scanLines(string(data))}
	top := &table{reader: r, values: values}
	c.readTop(top)
	c.readTables(top)
	c.readSite(top, filepath.Base(path))
	top.rest()
	sortProblems(r.problems)
	return c, r.problems
}

func syntax(path string, err error) Problem {
	var p toml.ParseError
	if !errors.As(err, &p) {
		return Problem{File: path, Message: err.Error()}
	}
	fix := "correct the TOML; a value that is not a number, true or false is in quotes"
	if strings.Contains(p.Message, "already") {
		fix = `a key stands once; with memory = "…" beside it, memory.soft is written "memory.soft" = "…"`
	}
	return Problem{File: path, Line: p.Position.Line, Key: short(p.LastKey), Message: p.Message, Fix: fix}
}

func (c *Config) readTop(t *table) {
	t.directory("root", &c.Root)
	t.directory("state", &c.State)
	if len(c.State) > maxState {
		t.problem(t.at("state"), fmt.Sprintf("name a directory of at most %d bytes", maxState),
			"has %d bytes: sockets in it would have no address", len(c.State))
	}
	t.word("on_unavailable", &c.OnUnavailable, LastKnown, Open, Closed)
	t.word("privileged", &c.Privileged, AsAsked, Govern)
	t.flag("readonly_root", &c.ReadonlyRoot)
	t.fraction("unseen_egress", &c.UnseenEgress, 0, 0.5)
	t.word("log_level", &c.LogLevel, "error", "warn", "info", "debug")
	t.word("log_format", &c.LogFormat, "text", "json")
	t.duration("sample", &c.Sample, 100*time.Millisecond, time.Minute)
	t.duration("checkpoint", &c.Checkpoint, time.Second, time.Hour)
	t.duration("collect", &c.Collect, time.Second, time.Hour)
	if c.Checkpoint < c.Sample {
		culprit := "checkpoint"
		if _, ok := t.values[culprit]; !ok {
			culprit = "sample"
		}
		t.problem(t.at(culprit), "make checkpoint at least sample", "checkpoint %s is shorter than sample %s", spell(c.Checkpoint), spell(c.Sample))
	}
}

func (t *table) directory(key string, into *string) {
	s := *into
	if !t.text(key, &s) {
		return
	}
	if !filepath.IsAbs(s) || filepath.Clean(s) == "/" || strings.ContainsAny(s, "\x00\n") {
		t.problem(t.at(key), fmt.Sprintf("write an absolute path such as %q", *into), "%.60q is not a directory of its own", s)
		return
	}
	*into = filepath.Clean(s)
}

func (c *Config) readTables(top *table) {
	t := top.sub("deadlines")
	d := &c.Deadlines
	t.duration("admit", &d.Admit, 5*time.Millisecond, time.Minute)
	t.duration("cold_start", &d.ColdStart, 100*time.Millisecond, 5*time.Minute)
	t.duration("predict", &d.Predict, time.Millisecond, time.Minute)
	if d.Predict > d.Admit {
		t.problem(t.at("predict"), "make it at most admit, of which it is a part", "%s is longer than admit, %s", spell(d.Predict), spell(d.Admit))
	}
	t.rest()

	t = top.sub("history")
	t.integer("runs_per_workload", &c.History.RunsPerWorkload, 1, 4096)
	t.duration("max_age", &c.History.MaxAge, time.Hour, 3650*day)
	t.size("max_bytes", &c.History.MaxBytes)
	if least := int64(1 << 20); c.History.MaxBytes < least {
		t.problem(t.at("max_bytes"), `write at least "1Mi"`, "%s is too little to keep a history", policy.KeyMemory.Format(policy.Value(c.History.MaxBytes)))
	}
	t.rest()

	t = top.sub("agent")
	t.duration("delay", &c.Agent.Delay, 0, time.Hour)
	t.rest()

	t = top.sub("prediction")
	t.fraction("coverage", &c.Prediction.Coverage, 0.5, 0.9999)
	t.fraction("seal", &c.Prediction.Seal, 0, 1)
	t.integer("min_runs", &c.Prediction.MinRuns, 1, 4096)
	t.file("priors", &c.Prediction.Priors, "/etc/forefend/priors")
	t.rest()

	t = top.sub("phases")
	t.integer("runs", &c.Phases.Runs, 0, 4096)
	t.duration("served", &c.Phases.Served, 0, 30*day)
	t.duration("quiet", &c.Phases.Quiet, 50*time.Millisecond, time.Hour)
	t.rest()

	t = top.sub("airbag")
	t.flag("enabled", &c.Airbag.Enabled)
	t.integer("min_runs", &c.Airbag.MinRuns, 1, 4096)
	t.size("reserve", &c.Airbag.Reserve)
	t.duration("calm", &c.Airbag.Calm, time.Second, 30*day)
	t.rest()

	c.readScan(top.sub("scan"))
	c.readThreats(top.sub("threats"))
	c.readSafeguards(top.sub("safeguards"))
	c.readTunnels(top)
	c.readEgress(top.sub("egress"))

	t = top.sub("metrics")
	t.listen("listen", &c.Metrics.Listen)
	t.rest()
}
