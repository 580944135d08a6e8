// Package openvpn is the far side of OpenVPN tunnels for root tests: an authority, and Debian's openvpn as a server, whose socket is on
// this machine's loopback and whose TUN is in a namespace of the test's.
package openvpn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// Authority issues certificates.
type Authority struct {
	PEM  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Identity is a certificate and its key, in PEM.
type Identity struct {
	Cert, Key   []byte
	Fingerprint string // SHA-256, as openvpn writes it
}

// NewAuthority makes one.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{}
	a.cert = &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	var der []byte
	a.key, der = sign(t, a.cert, nil)
	a.PEM = encode("CERTIFICATE", der)
	return a
}

// Issue makes a certificate of a client, or of a server.
func (a *Authority) Issue(t testing.TB, name string, server bool) Identity {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if server {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	key, der := sign(t, c, a)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	var hexes []string
	for _, b := range sum {
		hexes = append(hexes, strings.ToUpper(hex.EncodeToString([]byte{b})))
	}
	return Identity{encode("CERTIFICATE", der), encode("PRIVATE KEY", secret), strings.Join(hexes, ":")}
}

// sign signs by an authority, or by the new key itself.
func sign(t testing.TB, c *x509.Certificate, by *Authority) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

func serial() *big.Int {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return new(big.Int).SetBytes(b[:])
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// StaticKey is one for tls-crypt, as openvpn --genkey makes it.
func StaticKey() []byte {
	var b [256]byte
	_, _ = rand.Read(b[:]) // it never fails
	var text strings.Builder
	text.WriteString("-----BEGIN OpenVPN Static key V1-----\n")
	for i := 0; i < len(b); i += 16 {
		text.WriteString(hex.EncodeToString(b[i:i+16]) + "\n")
	}
	text.WriteString("-----END OpenVPN Static key V1-----\n")
	return []byte(text.String())
}
