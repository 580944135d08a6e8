package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"forefend.dev/forefend/netns/intercept/http2"
)

// streamServe answers requests with a kilobyte, and calls of gRPC with a hundred bytes and a status. It reads frames and nothing
// in them, and answers all that came together at once: a server of Go's library would cost more than what is measured, and its
// speed would be what all proxies have in common.
func streamServe() error {
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", egressServer, egressPlain))
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			s := streamServer{conn: conn, window: http2.DefaultWindow, calls: make(map[uint32]bool)}
			if err := s.serve(); !errors.Is(err, io.EOF) { // stdout is for results
				fmt.Fprintln(os.Stderr, "server:", err)
			}
		}()
	}
}

type streamServer struct {
	conn    net.Conn
	out     []byte
	window  int64
	calls   map[uint32]bool // streams whose request has a body
	waiting []uint32        // for window; a call's number has a bit more
}

const ofCall = 1 << 31

var (
	streamPlain = http2.AppendField([]byte{0x88}, "content-length", "1024") // 200
	streamHead  = http2.AppendField([]byte{0x88}, "content-type", "application/grpc")
	streamTail  = http2.AppendField(nil, "grpc-status", "0")
	streamBody  = make([]byte, 1024)
	streamReply = append(binary.BigEndian.AppendUint32([]byte{0}, 100), make([]byte, 100)...)
)

// serve serves until the connection ends, which the error tells.
func (s *streamServer) serve() error {
	if _, err := io.ReadFull(s.conn, make([]byte, len(http2.Preface))); err != nil {
		return err
	}
	s.out = http2.AppendSettings(s.out, http2.Parameter{Setting: http2.MaxConcurrentStreams, Value: 1000}, http2.Parameter{Setting: http2.InitialWindowSize, Value: 1 << 20})
	s.out = http2.AppendWindowUpdate(s.out, 0, 1<<30)
	in, n := make([]byte, 256<<10), 0
	for {
		if _, err := s.conn.Write(s.out); err != nil {
			return err
		}
		s.out = s.out[:0]
		m, err := s.conn.Read(in[n:])
		if err != nil {
			return err
		}
		n += m
		b := in[:n]
		for len(b) >= http2.FrameHeader {
			f := http2.Parse(b)
			if len(b) < http2.FrameHeader+f.Length {
				break
			}
			s.take(f, b[http2.FrameHeader:http2.FrameHeader+f.Length])
			b = b[http2.FrameHeader+f.Length:]
		}
		n = copy(in, b)
	}
}

func (s *streamServer) take(f http2.Frame, p []byte) {
	switch f.Type {
	case http2.Headers, http2.Data:
		if !f.Has(http2.EndStream) {
			s.calls[f.Stream] = true
			break
		}
		id := f.Stream
		if s.calls[id] {
			delete(s.calls, id)
			id |= ofCall
		}
		s.waiting = append(s.waiting, id)
	case http2.Settings:
		if !f.Has(http2.Ack) {
			s.out = http2.Frame{Type: http2.Settings, Flags: http2.Ack}.Append(s.out)
		}
	case http2.WindowUpdate:
		if f.Stream == 0 {
			s.window += int64(http2.Uint32(p))
		}
	case http2.Ping:
		if !f.Has(http2.Ack) {
			s.out = http2.AppendPong(s.out, p)
		}
	}
	for len(s.waiting) > 0 && s.window >= int64(len(streamBody)) {
		s.answer(s.waiting[0])
		s.waiting = s.waiting[1:]
	}
}

func (s *streamServer) answer(id uint32) {
	stream := id &^ ofCall
	head, body, end := streamPlain, streamBody, uint8(http2.EndStream)
	if id != stream {
		head, body, end = streamHead, streamReply, 0
	}
	s.out = http2.AppendBlock(s.out, stream, http2.NoTable, head, false)
	s.out = http2.Frame{Length: len(body), Type: http2.Data, Flags: end, Stream: stream}.Append(s.out)
	s.out = append(s.out, body...)
	s.window -= int64(len(body))
	if end == 0 {
		s.out = http2.AppendBlock(s.out, stream, nil, streamTail, true)
	}
}
