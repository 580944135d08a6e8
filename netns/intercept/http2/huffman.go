package http2

import (
	"bytes"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// The code of RFC 7541, appendix B, as a machine that takes four bits at a time: a state is where in the tree of codes one is,
// and each step may bring forth one byte, since no code is shorter than five bits.
type huffmanStep struct {
	next   uint8 // state
	symbol byte
	flags  uint8
}

const (
	emits  = 1 << iota // the step ends a symbol
	failed             // no code continues like this
)

// huffman returns the steps by state and bits, and the states in which a text may end: at most seven bits of padding, all ones. It is
// made when it is first needed: an agent that never sees HTTP/2 starts without.
var huffman = sync.OnceValues(huffmanTable)

type huffmanNode struct {
	child  [2]*huffmanNode
	symbol int // -1: an inner node
	state  int // of an inner one
	ends   bool
}

// huffmanTable makes the machine of the codes that hpack's encoder writes. Eight times the same byte are as many bytes as its
// code has bits.
func huffmanTable() (steps [][16]huffmanStep, ends []bool) {
	root := &huffmanNode{symbol: -1}
	for symbol := range 256 {
		eight := string(bytes.Repeat([]byte{byte(symbol)}, 8))
		bits := int(hpack.HuffmanEncodeLength(eight))
		code := hpack.AppendHuffmanString(nil, eight)
		n := root
		for i := range bits {
			bit := code[i/8] >> (7 - i%8) & 1
			if n.child[bit] == nil {
				n.child[bit] = &huffmanNode{symbol: -1}
			}
			n = n.child[bit]
		}
		n.symbol = symbol
	}
	for n, depth := root, 0; n != nil && depth < 8; n, depth = n.child[1], depth+1 {
		n.ends = true
	}
	var inner []*huffmanNode
	var collect func(*huffmanNode)
	collect = func(n *huffmanNode) {
		if n == nil || n.symbol >= 0 {
			return
		}
		n.state = len(inner)
		inner = append(inner, n)
		collect(n.child[0])
		collect(n.child[1])
	}
	collect(root)
	steps, ends = make([][16]huffmanStep, len(inner)), make([]bool, len(inner))
	for i, n := range inner {
		ends[i] = n.ends
		for bits := range 16 {
			steps[i][bits] = huffmanWalk(root, n, bits)
		}
	}
	return steps, ends
}

func huffmanWalk(root, n *huffmanNode, bits int) (s huffmanStep) {
	for i := 3; i >= 0; i-- {
		if n = n.child[bits>>i&1]; n == nil { // 30 ones: the end of text, which is none
			return huffmanStep{flags: failed}
		}
		if n.symbol >= 0 {
			s.symbol, s.flags = byte(n.symbol), emits
			n = root
		}
	}
	s.next = uint8(n.state)
	return s
}

// appendHuffman appends the text that b encodes. ok is false where it is none.
func appendHuffman(dst, b []byte) (text []byte, ok bool) {
	steps, ends := huffman()
	state := uint8(0)
	for _, c := range b {
		high := steps[state][c>>4]
		if high.flags&emits != 0 {
			dst = append(dst, high.symbol)
		}
		low := steps[high.next][c&15]
		if low.flags&emits != 0 {
			dst = append(dst, low.symbol)
		}
		if (high.flags|low.flags)&failed != 0 {
			return dst, false
		}
		state = low.next
	}
	return dst, ends[state]
}
