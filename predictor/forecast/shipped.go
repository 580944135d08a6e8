package forecast

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	_ "embed"
)

// priorVersion changes with the network's form and the meaning of its inputs.
const priorVersion = 1

const maxNetworks = 16

// shippedPrior is made by `forefend eval usage-prior` from public usage traces (docs/predictor/usage.md): networks
// alone, no data.
//
//go:embed prior.bin
var shippedPrior []byte

var shipped = func() [][]float32 {
	w, err := DecodePrior(shippedPrior)
	if err != nil {
		panic(err) // a broken build
	}
	return w
}()

// EncodePrior writes networks from Fit in the form that ships: version, their number, the number of weights, weights,
// all 32 bits little-endian.
func EncodePrior(nets [][]float32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, priorVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(nets)))
	b = binary.LittleEndian.AppendUint32(b, weights)
	for _, w := range nets {
		for _, v := range w {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	}
	return b
}

// ErrPrior is what DecodePrior returns for bytes that are no prior of this version.
var ErrPrior = errors.New("not a usage prior of this version")

// DecodePrior reads what EncodePrior wrote.
func DecodePrior(b []byte) ([][]float32, error) {
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	if len(b) < 12 || word(0) != priorVersion || word(2) != weights {
		return nil, fmt.Errorf("%w: make it anew", ErrPrior)
	}
	n := int(word(1))
	if n < 1 || n > maxNetworks || len(b) != 4*(3+n*weights) {
		return nil, fmt.Errorf("%w: %d bytes for %d networks", ErrPrior, len(b), n)
	}
	nets := make([][]float32, n)
	for i := range nets {
		nets[i] = make([]float32, weights)
		for j := range nets[i] {
			v := math.Float32frombits(word(3 + i*weights + j))
			if !(math.Abs(float64(v)) < 1e3) {
				return nil, fmt.Errorf("%w: weight %d of network %d is out of range", ErrPrior, j, i)
			}
			nets[i][j] = v
		}
	}
	return nets, nil
}
