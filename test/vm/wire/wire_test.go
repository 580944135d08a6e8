package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
)

func TestFramesKeepTheirOrder(t *testing.T) {
	var pipe bytes.Buffer
	c := New(&pipe)
	long := strings.Repeat("x", maxBody+7)
	if n, err := c.Stream(Out).Write([]byte(long)); n != len(long) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if err := c.WriteJSON(Exit, Result{3}); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for {
		kind, body, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		if kind == Exit {
			if string(body) != `{"Status":3}` {
				t.Errorf("result %s", body)
			}
			break
		}
		got.Write(body)
	}
	if got.String() != long {
		t.Errorf("%d bytes arrived of %d", got.Len(), len(long))
	}
	if _, _, err := c.Read(); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestReadRefusesWhatIsNoFrame(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         error
	}{
		{"half a head", "o\x00\x00", io.ErrUnexpectedEOF},
		{"half a body", "o\x00\x00\x00\x05abc", io.ErrUnexpectedEOF},
		{"no body", "o\x00\x00\x00\x05", io.ErrUnexpectedEOF},
		{"too long", "o\xff\xff\xff\xffabc", nil},
	} {
		_, _, err := New(bytes.NewBufferString(c.stream)).Read()
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := New(&bytes.Buffer{}).Write(Out, make([]byte, maxBody+1)); err == nil {
		t.Error("a frame that nobody would read was sent")
	}
}

// Frames of several writers do not mix.
func TestWritersAtOnce(t *testing.T) {
	var pipe bytes.Buffer
	c := New(&pipe)
	var writers sync.WaitGroup
	for _, word := range []string{"aaaa", "bbbb", "cccc"} {
		writers.Go(func() {
			for range 200 {
				if err := c.Write(Out, []byte(word)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for range 600 {
		_, body, err := c.Read()
		if err != nil || strings.Trim(string(body), string(body[:1])) != "" {
			t.Fatalf("%q, %v", body, err)
		}
	}
}
