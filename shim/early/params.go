package early

import (
	"bytes"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"forefend.dev/forefend/shim/internal/cmdline"
)

// params is what of containerd's bootstrap parameters (containerd/api/runtime/bootstrap/v1) a start takes.
type params struct {
	id, namespace string
	address       string // containerd's, GRPC
	socketDir     string // "": the default
	level         int32  // of the log
}

// debugLevel is the log level from which down a shim has a second socket, for debugging.
const debugLevel = -4

// The fields of a BootstrapParams, as number<<3 | wire type.
const (
	idField        = 1<<3 | wireType(protowire.BytesType)
	namespaceField = 2<<3 | wireType(protowire.BytesType)
	levelField     = 3<<3 | wireType(protowire.VarintType)
	versionField   = 4<<3 | wireType(protowire.BytesType)
	ttrpcField     = 5<<3 | wireType(protowire.BytesType)
	addressField   = 6<<3 | wireType(protowire.BytesType)
	binaryField    = 7<<3 | wireType(protowire.BytesType)
	extensionField = 8<<3 | wireType(protowire.BytesType)
	socketDirField = 9<<3 | wireType(protowire.BytesType)
)

type wireType uint64

// readParams reads parameters of the container that the command line names. ok is false for what is none, and for what asks for more than a plain start.
func readParams(v cmdline.Invocation, input []byte) (p params, ok bool) {
	ok = fields(input, func(field wireType, text []byte, value uint64) bool {
		switch field {
		case idField:
			p.id = string(text)
		case namespaceField:
			p.namespace = string(text)
		case levelField:
			p.level = int32(value)
		case addressField:
			p.address = string(text)
		case socketDirField:
			p.socketDir = string(text)
		case versionField, ttrpcField, binaryField:
		case extensionField:
			return plainExtension(text)
		default:
			return true // of a later version, or nothing
		}
		return utf8.Valid(text)
	})
	return p, ok && p.level > debugLevel && p.id == v.ID && p.namespace == v.Namespace
}

// fields gives take each field of a message in turn: its bytes if it has a length, its value if it is a number. It returns false for what is no message, and when take does.
func fields(message []byte, take func(field wireType, text []byte, value uint64) bool) bool {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return false
		}
		message = message[n:]
		var text []byte
		var value uint64
		switch kind {
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			value, n = protowire.ConsumeVarint(message)
		default:
			return false // none of the messages here has others; upstream knows what to do
		}
		if n < 0 || !take(wireType(number)<<3|wireType(kind), text, value) {
			return false
		}
		message = message[n:]
	}
	return true
}

// Types of options, as the end of a type URL.
const (
	runcOptions    = "containerd.runc.v1.Options"
	runtimeOptions = "runtimeoptions.v1.Options"
)

// The fields of an Extension, an Any and both kinds of options.
const (
	valueField      = 1<<3 | wireType(protowire.BytesType)
	typeField       = 1<<3 | wireType(protowire.BytesType)
	bodyField       = 2<<3 | wireType(protowire.BytesType)
	shimCgroupField = 3<<3 | wireType(protowire.BytesType)
	pathField       = 2<<3 | wireType(protowire.BytesType)
	tomlField       = 3<<3 | wireType(protowire.BytesType)
)

// plainExtension tells whether an extension holds options that do not matter for a start: with a cgroup for the shim they do.
func plainExtension(extension []byte) bool {
	return fields(extension, func(field wireType, value []byte, _ uint64) bool { return field == valueField && plainOptions(value) })
}

// plainOptions is the same for what the extension holds, an Any.
func plainOptions(value []byte) bool {
	var kind, body []byte
	if !fields(value, func(field wireType, text []byte, _ uint64) bool {
		switch field {
		case typeField:
			kind = text
		case bodyField:
			body = text
		}
		return field == typeField && utf8.Valid(text) || field == bodyField
	}) {
		return false
	}
	switch string(kind[bytes.LastIndexByte(kind, '/')+1:]) {
	case runcOptions:
		return fields(body, func(field wireType, text []byte, _ uint64) bool { return field != shimCgroupField || len(text) == 0 })
	case runtimeOptions:
		return fields(body, func(field wireType, text []byte, _ uint64) bool {
			return field != pathField && (field != tomlField || !bytes.Contains(bytes.ToLower(text), []byte("shimcgroup")))
		})
	}
	return false
}

// result is a BootstrapResult for a shim that listens at an address, with containerd's task API 3.
func result(address string) []byte {
	b := protowire.AppendTag(nil, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, 3)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendString(b, address)
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	return protowire.AppendString(b, "ttrpc")
}
