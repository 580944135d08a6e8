package http2

import "encoding/binary"

// Type is a frame's type (RFC 9113, 6).
type Type uint8

// The types. Any other one is ignored by who receives it.
const (
	Data Type = iota
	Headers
	Priority
	Reset
	Settings
	PushPromise
	Ping
	GoAway
	WindowUpdate
	Continuation
)

// Flags of frames; what a bit means depends on the type.
const (
	EndStream   = 0x1
	Ack         = 0x1
	EndHeaders  = 0x4
	Padded      = 0x8
	Prioritised = 0x20
)

// Code is why a stream or a connection ends (RFC 9113, 7).
type Code uint32

// The codes.
const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
)

// Setting is the number of a parameter of a connection (RFC 9113, 6.5.2; RFC 8441, 3).
type Setting uint16

// The parameters.
const (
	HeaderTableSize       Setting = 1
	EnablePush            Setting = 2
	MaxConcurrentStreams  Setting = 3
	InitialWindowSize     Setting = 4
	MaxFrameSize          Setting = 5
	MaxHeaderListSize     Setting = 6
	EnableConnectProtocol Setting = 8
)

// Sizes in bytes.
const (
	FrameHeader   = 9     // before a frame's payload
	MaxPayload    = 16384 // of a frame, where no larger one was offered: nobody here offers one
	DefaultWindow = 65535 // of streams and connections, at first
	MaxWindow     = 1<<31 - 1
	defaultTable  = 4096
	settingSize   = 6
	prioritySize  = 5
	GoAwaySize    = 8 // of a GOAWAY's payload, at least
)

// Preface is what a client's connection begins with.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frame is the header of a frame.
type Frame struct {
	Length int // of the payload, in bytes
	Type   Type
	Flags  uint8
	Stream uint32
}

// Has tells whether a flag is set.
func (f Frame) Has(flag uint8) bool { return f.Flags&flag != 0 }

// Parse reads the header at the beginning of b, which has FrameHeader bytes or more.
func Parse(b []byte) Frame {
	_ = b[8]
	return Frame{
		Length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]), Type: Type(b[3]), Flags: b[4],
		Stream: binary.BigEndian.Uint32(b[5:]) & (1<<31 - 1),
	}
}

// Append appends the header.
func (f Frame) Append(dst []byte) []byte {
	return append(dst, byte(f.Length>>16), byte(f.Length>>8), byte(f.Length), byte(f.Type), f.Flags,
		byte(f.Stream>>24), byte(f.Stream>>16), byte(f.Stream>>8), byte(f.Stream))
}

// Unpad is the payload of a DATA or HEADERS frame without padding and priority; ok is false where those are longer than it.
func (f Frame) Unpad(payload []byte) (rest []byte, ok bool) {
	pad, skip := 0, 0
	if f.Has(Padded) {
		if len(payload) == 0 {
			return nil, false
		}
		pad, skip = int(payload[0]), 1
	}
	if f.Type == Headers && f.Has(Prioritised) {
		skip += prioritySize
	}
	if skip+pad > len(payload) {
		return nil, false
	}
	return payload[skip : len(payload)-pad], true
}

// Uint32 reads the number at the beginning of a payload: a code, or an increment with a bit that means nothing.
func Uint32(payload []byte) uint32 { return binary.BigEndian.Uint32(payload) }

// DependsOn is the stream that a prioritised HEADERS or a PRIORITY frame names; ok is false where it has none.
func (f Frame) DependsOn(payload []byte) (stream uint32, ok bool) {
	if f.Type == Headers {
		if !f.Has(Prioritised) {
			return 0, false
		}
		if f.Has(Padded) && len(payload) > 0 {
			payload = payload[1:]
		}
	}
	if len(payload) < prioritySize {
		return 0, false
	}
	return Uint32(payload) & (1<<31 - 1), true
}

// Parameter is one setting and its value.
type Parameter struct {
	Setting Setting
	Value   uint32
}

// EachSetting calls f for the parameters of a SETTINGS frame, in their order, until it returns a code that is no NoError. The
// code is FrameSizeError where the payload is none of settings.
func EachSetting(payload []byte, f func(Parameter) Code) Code {
	if len(payload)%settingSize != 0 {
		return FrameSizeError
	}
	for ; len(payload) > 0; payload = payload[settingSize:] {
		p := Parameter{Setting(binary.BigEndian.Uint16(payload)), binary.BigEndian.Uint32(payload[2:])}
		if code := p.check(); code != NoError {
			return code
		}
		if code := f(p); code != NoError {
			return code
		}
	}
	return NoError
}

// check says what is wrong with a value (RFC 9113, 6.5.2).
func (p Parameter) check() Code {
	switch p.Setting {
	case EnablePush, EnableConnectProtocol:
		if p.Value > 1 {
			return ProtocolError
		}
	case InitialWindowSize:
		if p.Value > MaxWindow {
			return FlowControlError
		}
	case MaxFrameSize:
		if p.Value < MaxPayload || p.Value >= 1<<24 {
			return ProtocolError
		}
	}
	return NoError
}

// AppendSettings appends a SETTINGS frame.
func AppendSettings(dst []byte, parameters ...Parameter) []byte {
	dst = Frame{Length: settingSize * len(parameters), Type: Settings}.Append(dst)
	for _, p := range parameters {
		dst = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, uint16(p.Setting)), p.Value)
	}
	return dst
}

// AppendReset appends a RST_STREAM frame.
func AppendReset(dst []byte, stream uint32, code Code) []byte {
	return binary.BigEndian.AppendUint32(Frame{Length: 4, Type: Reset, Stream: stream}.Append(dst), uint32(code))
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame; stream 0 is the connection.
func AppendWindowUpdate(dst []byte, stream uint32, n int64) []byte {
	return binary.BigEndian.AppendUint32(Frame{Length: 4, Type: WindowUpdate, Stream: stream}.Append(dst), uint32(n))
}

// AppendGoAway appends a GOAWAY frame. last is the highest stream that was taken.
func AppendGoAway(dst []byte, last uint32, code Code, why string) []byte {
	dst = Frame{Length: GoAwaySize + len(why), Type: GoAway}.Append(dst)
	return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(dst, last), uint32(code)), why...)
}

// AppendPong appends the answer to a PING frame.
func AppendPong(dst, payload []byte) []byte {
	return append(Frame{Length: len(payload), Type: Ping, Flags: Ack}.Append(dst), payload...)
}

// AppendBlock appends a header block as a HEADERS frame, and as many CONTINUATION frames as it takes. before is put in front
// of the block.
func AppendBlock(dst []byte, stream uint32, before, block []byte, end bool) []byte {
	f := Frame{Length: len(before) + len(block), Type: Headers, Stream: stream}
	if end {
		f.Flags = EndStream
	}
	if f.Length <= MaxPayload {
		f.Flags |= EndHeaders
		return append(append(f.Append(dst), before...), block...)
	}
	f.Length = MaxPayload
	dst = append(append(f.Append(dst), before...), block[:MaxPayload-len(before)]...)
	for block = block[MaxPayload-len(before):]; len(block) > 0; {
		n := min(len(block), MaxPayload)
		f = Frame{Length: n, Type: Continuation, Stream: stream}
		if n == len(block) {
			f.Flags = EndHeaders
		}
		dst = append(f.Append(dst), block[:n]...)
		block = block[n:]
	}
	return dst
}
