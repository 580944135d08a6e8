package pdp

import (
	"net/netip"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"forefend.dev/forefend/netns/flow"
)

// field is a variable of conditions. Those up to texts are strings, those from there up to numbers integers.
type field uint8

const (
	namespace field = iota
	workload
	image
	container
	protocol
	host
	hostProof
	service
	user
	userProof
	data
	operation
	method
	path
	executable
	texts // how many texts there are

	port field = iota - 1
	risk
	load
	pid
	numbers // one more than the last number

	destination field = iota - 2
	now
	fields // how many there are
)

const firstNumber = texts

// variable is how conditions write a field, and what a Decision calls it.
type variable struct {
	name string
	kind *cel.Type
	of   flow.Field
	// most is how long its value can be, in bytes; what costs are estimated by.
	most uint64
}

var variables = [fields]variable{
	namespace:   {"containerd_namespace", cel.StringType, flow.FieldNamespace, 76},
	workload:    {"workload", cel.StringType, flow.FieldWorkload, 512},
	image:       {"image", cel.StringType, flow.FieldImage, 512},
	container:   {"container", cel.StringType, flow.FieldContainer, 128},
	protocol:    {"protocol", cel.StringType, flow.FieldProtocol, 8},
	host:        {"host", cel.StringType, flow.FieldHost, 255},
	hostProof:   {"host_proof", cel.StringType, flow.FieldHostProof, 11},
	service:     {"service", cel.StringType, flow.FieldService, 255},
	user:        {"user", cel.StringType, flow.FieldUser, 512},
	userProof:   {"user_proof", cel.StringType, flow.FieldUserProof, 8},
	data:        {"data", cel.StringType, flow.FieldData, 64},
	operation:   {"operation", cel.StringType, flow.FieldOperation, 64},
	method:      {"method", cel.StringType, flow.FieldMethod, 32},
	path:        {"path", cel.StringType, flow.FieldPath, 8192},
	executable:  {"process.executable", cel.StringType, flow.FieldProcess, 4096},
	port:        {"port", cel.IntType, flow.FieldPort, 1},
	risk:        {"risk", cel.IntType, flow.FieldRisk, 1},
	load:        {"load", cel.IntType, flow.FieldLoad, 1},
	pid:         {"process.pid", cel.IntType, flow.FieldProcess, 1},
	destination: {"destination", cel.StringType, flow.FieldDestination, 48},
	now:         {"now", cel.TimestampType, flow.FieldTime, 1},
}

// byName finds a field by its name in conditions.
var byName = func() map[string]field {
	m := make(map[string]field, fields)
	for f := range fields {
		m[variables[f].name] = f
	}
	return m
}()

// mask is a set of fields.
type mask uint32

func (f field) bit() mask { return 1 << f }

// names are the fields as a Decision lists them.
func (m mask) names() []flow.Field {
	var list []flow.Field
	for f := range fields {
		if m&f.bit() != 0 && (f != pid || m&executable.bit() == 0) {
			list = append(list, variables[f].of)
		}
	}
	return list
}

// reading is a Context as conditions see it, and which of it they looked at.
type reading struct {
	text   [texts]string
	number [numbers - firstNumber]int64
	addr   netip.Addr
	now    time.Time // whole seconds
	names  []string  // of which the host is one; nil: it is the text
	seen   mask
}

// fill takes over a Context.
func (r *reading) fill(c *flow.Context, at Moment) {
	r.text = [texts]string{
		namespace: c.Namespace, workload: c.Workload, image: c.Image, container: c.Container, protocol: string(c.Protocol),
		host: c.Host, hostProof: string(c.HostProof), service: c.Service, user: c.User, userProof: string(c.UserProof), data: c.Data, operation: c.Operation,
		method: c.Method, path: c.Path,
	}
	r.number[port-firstNumber] = int64(c.Destination.Port())
	r.number[risk-firstNumber] = int64(c.Risk)
	r.number[load-firstNumber] = int64(at.Load)
	if c.Process != nil {
		r.text[executable] = c.Process.Executable
		r.number[pid-firstNumber] = int64(c.Process.PID)
	}
	if c.Host == "" {
		r.names = c.Names
	}
	r.addr = c.Destination.Addr().Unmap()
	r.now = at.Now
}

// unclaimed makes of it what it would be if nobody had said who the user is.
func (r *reading) unclaimed() {
	r.text[user], r.text[userProof] = r.text[workload], string(flow.Workload)
}

// unnamed makes of it what it would be if nobody had said which host it is for.
func (r *reading) unnamed() { r.text[host], r.text[hostProof], r.names = "", "", nil }

// activation shows a reading to CEL.
type activation struct{ *reading }

// ResolveName implements cel.Activation.
func (a activation) ResolveName(name string) (any, bool) {
	f, ok := byName[name]
	if !ok {
		return nil, false
	}
	a.seen |= f.bit()
	return a.value(f), true
}

// Parent implements cel.Activation.
func (activation) Parent() cel.Activation { return nil }

func (r *reading) value(f field) ref.Val {
	switch {
	case f < texts:
		return types.String(r.text[f])
	case f < numbers:
		return types.Int(r.number[f-firstNumber])
	case f == now:
		return types.Timestamp{Time: r.now.Truncate(time.Second)}
	case r.addr.IsValid():
		return types.String(r.addr.String())
	}
	return types.String("")
}
