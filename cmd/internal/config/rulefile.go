package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/BurntSushi/toml"

	"forefend.dev/forefend/netns/flow"
)

// MaxRuleFile bounds a file of egress rules, in bytes.
const MaxRuleFile = 1 << 20

// Rule is one [[rule]] of a file, its condition as it stands there: what it means is netns/pdp's to say.
type Rule struct {
	Name    string
	When    string
	Profile flow.Profile
	Unsaid  bool // nothing is said of encryption
	Source  string

	file *RuleFile
	path []string
}

// RuleTest is one [[test]] of a file: a request, and what rules have to make of it.
type RuleTest struct {
	Name    string
	Source  string
	Context flow.Context
	Now     time.Time // zero: any
	Load    int
	Want    Want
}

// Want is an expected profile, as far as it says something. Nil is not said.
type Want struct {
	Deny       bool
	Encryption *flow.Encryption
	Dedicated  *bool
	Endpoint   *string
	QoS        *string
	Rate       *flow.Rate // one that must hold, whoever set it
	Rules      []string   // all that apply, in any order
}

// RuleFile is a file of egress rules.
type RuleFile struct {
	File  string
	Rules []Rule
	Tests []RuleTest

	lines *lines
}

// ParseRules reads a file of rules and their tests. The problems are all that can be known without compiling conditions.
func ParseRules(path string, data []byte) (*RuleFile, Problems) {
	if len(data) > MaxRuleFile {
		return nil, Problems{{File: path, Message: fmt.Sprintf("has more than %d KiB", MaxRuleFile>>10), Fix: "split it: all *.toml files of the directory hold together"}}
	}
	var values map[string]any
	if _, err := toml.Decode(string(data), &values); err != nil {
		return nil, Problems{syntax(path, err)}
	}
	f := &RuleFile{File: path, lines: scanLines(string(data))}
	r := &reader{file: path, lines: f.lines, columns: true}
	top := &table{reader: r, values: values}
	for _, t := range top.subs("rule") {
		f.Rules = append(f.Rules, f.rule(t))
	}
	for _, t := range top.subs("test") {
		f.Tests = append(f.Tests, f.test(t))
	}
	top.rest()
	sortProblems(r.problems)
	return f, r.problems
}

// IsRuleFile tells a file of rules from a config file by what is in it.
func IsRuleFile(path string) (bool, error) {
	data, err := readAtMost(path, MaxRuleFile)
	if err != nil {
		return false, err
	}
	var values map[string]any
	if _, err := toml.Decode(string(data), &values); err != nil {
		return false, nil // whoever reads it next says what is wrong
	}
	_, rules := values["rule"]
	_, tests := values["test"]
	return rules || tests, nil
}

func (f *RuleFile) source(path []string) string {
	return fmt.Sprintf("%s:%d", filepath.Base(f.File), f.lines.find(path).line)
}

func (f *RuleFile) rule(t *table) Rule {
	r := Rule{file: f, path: t.path, Source: f.source(t.path)}
	t.needs("name", &r.Name, `write name = "…"`, "a rule needs a name")
	t.boundedText("name", r.Name, 64)
	t.needs("when", &r.When, `write when = 'user == "admin"', or when = "true" for every request`, "a rule needs a condition")
	r.Profile = t.outcome(&r.Unsaid)
	if _, tunnel := t.values["tunnel"]; !tunnel && !r.Profile.Deny && r.Profile.QoS == "" {
		t.problem(t.path, "write tunnel = { … }, qos or deny = true", "a rule must lead to something")
	}
	t.rest()
	return r
}

// needs reads a string that must be there and not empty.
func (t *table) needs(key string, into *string, fix, message string) {
	if v, given := t.values[key]; !given || v == "" {
		t.problem(t.path, fix, "%s", message)
	}
	t.text(key, into)
}

// Problem is what is wrong with the rule, at a byte of its condition; -1: not in there.
func (r *Rule) Problem(offset int, message string) Problem {
	p := Problem{File: r.file.File, Key: "rule", Message: message}
	at := r.file.lines.find(r.path)
	if offset >= 0 {
		p.Key = "rule.when"
		at = r.file.lines.within(append(r.path[:len(r.path):len(r.path)], "when"), offset)
	}
	p.Line, p.Column = at.line, at.column
	return p
}

func (f *RuleFile) test(t *table) RuleTest {
	out := RuleTest{Source: f.source(t.path)}
	t.needs("name", &out.Name, `write name = "…"`, "a test needs a name")
	c := t.sub("context")
	c.context(&out)
	c.rest()
	if _, given := t.values["expect"]; !given {
		t.problem(t.path, `write expect = { tunnel = { encryption = "strong" } } or expect = { deny = true }`, "a test needs what it expects")
	}
	e := t.sub("expect")
	out.Want = e.want()
	e.rest()
	t.rest()
	return out
}

// context reads what a test's request is.
func (t *table) context(into *RuleTest) {
	c := &into.Context
	c.Version = flow.Version
	proof, host, protocol := string(c.UserProof), string(c.HostProof), string(c.Protocol)
	for key, text := range map[string]*string{
		"user": &c.User, "data": &c.Data, "operation": &c.Operation, "host": &c.Host, "method": &c.Method, "path": &c.Path, "service": &c.Service,
		"workload": &c.Workload, "image": &c.Image, "container": &c.Container, string(flow.FieldNamespace): &c.Namespace,
	} {
		t.text(key, text)
	}
	t.strings("names", func(_ []string, s string) { c.Names = append(c.Names, s) })
	if len(c.Names) > flow.MaxNames {
		t.problem(t.at("names"), fmt.Sprintf("name at most %d", flow.MaxNames), "has %d names", len(c.Names))
	}
	t.word("user_proof", &proof, string(flow.Claimed), string(flow.Workload), string(flow.Verified))
	t.word("protocol", &protocol, string(flow.HTTP), string(flow.TLS), string(flow.Opaque), string(flow.DNS))
	t.word("host_proof", &host, string(flow.Claimed), string(flow.Answered), string(flow.Certified))
	c.UserProof, c.HostProof, c.Protocol = flow.Proof(proof), flow.Proof(host), flow.Protocol(protocol)
	if c.User != "" && proof == "" {
		t.problem(t.at("user"), `add user_proof = "token" (verified), "claim" (a header) or "workload"`, "a user needs a proof")
	}
	t.integer("risk", &c.Risk, 0, 100)
	t.integer("load", &into.Load, 0, 100)
	var s string
	if t.text("destination", &s) {
		var err error
		if c.Destination, err = netip.ParseAddrPort(s); err != nil {
			t.problem(t.at("destination"), `write an address and a port, as "10.0.0.1:443" or "[2001:db8::1]:443"`, "%.60q is neither", s)
		}
	}
	if v, ok := t.take("now"); ok {
		if into.Now, ok = v.(time.Time); !ok {
			t.problem(t.at("now"), "write a date and time without quotes, as 2026-01-31T22:30:00Z", "is %s", kind(v))
		}
	}
	p := t.sub("process")
	c.Process = &flow.Process{}
	p.text("executable", &c.Process.Executable)
	p.integer("pid", &c.Process.PID, 0, 1<<22)
	p.rest()
}

// want reads an expected profile.
func (t *table) want() (w Want) {
	t.flag("deny", &w.Deny)
	given := func(t *table, key string) bool { _, ok := t.values[key]; return ok }
	tunnel := t.sub("tunnel")
	var p flow.Profile
	if tunnel.encryption(&p.Encryption) {
		w.Encryption = &p.Encryption
	}
	if tunnel.flag("dedicated", &p.Dedicated); given(tunnel, "dedicated") {
		w.Dedicated = &p.Dedicated
	}
	if given(tunnel, "endpoint") {
		w.Endpoint = &p.Endpoint
		if tunnel.text("endpoint", &p.Endpoint); p.Endpoint != "" && !validEndpoint(p.Endpoint) {
			tunnel.endpoint("endpoint", &p.Endpoint)
		}
	}
	if r, ok := tunnel.rate(); ok {
		w.Rate = &r
	}
	tunnel.rest()
	if given(t, "qos") {
		w.QoS = &p.QoS
		t.word("qos", &p.QoS, append([]string{""}, flow.QoSClasses...)...)
	}
	if given(t, "rules") {
		w.Rules = []string{}
	}
	t.strings("rules", func(_ []string, s string) { w.Rules = append(w.Rules, s) })
	return w
}

func atoi(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 40)
	return int64(n), err
}
