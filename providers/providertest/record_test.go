package providertest

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A field that the record leaves out is one whose loss no store's test would notice.
func TestTheRecordHasSomethingEverywhere(t *testing.T) {
	t.Parallel()
	var look func(path string, v reflect.Value)
	look = func(path string, v reflect.Value) {
		assert.False(t, v.IsZero(), "record() has no %s", path)
		switch v.Kind() {
		case reflect.Pointer:
			look(path, v.Elem())
		case reflect.Slice:
			for i := range v.Len() {
				look(path+"[]", v.Index(i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("json") != "-" { // else it is no part of what is kept
					look(path+"."+f.Name, v.Field(i))
				}
			}
		default:
		}
	}
	look("Metadata", reflect.ValueOf(record()))
}
