package main

import (
	"encoding/json"
	"reflect"
	"strings"
)

// withLists is a result for programs: a list or a table with nothing in it is
// written as such ("[]", "{}"), never as null. What is given stays as it is.
func withLists(result any) any {
	if result == nil {
		return nil
	}
	return withListsIn(reflect.ValueOf(result)).Interface()
}

var marshals = reflect.TypeFor[json.Marshaler]()

// withListsIn is a copy of a value in which no list and no table is nil. What writes itself is left alone, and so is what is left out when it is zero.
func withListsIn(v reflect.Value) reflect.Value {
	t := v.Type()
	if t.Implements(marshals) || reflect.PointerTo(t).Implements(marshals) {
		return v
	}
	switch v.Kind() {
	case reflect.Struct:
		filled := reflect.New(t).Elem()
		filled.Set(v)
		for i := range t.NumField() {
			if f := t.Field(i); (f.IsExported() || f.Anonymous) && filled.Field(i).CanSet() && !strings.Contains(f.Tag.Get("json"), ",omitzero") {
				filled.Field(i).Set(withListsIn(v.Field(i)))
			}
		}
		return filled
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return v
		}
		filled := reflect.MakeSlice(t, v.Len(), v.Len())
		for i := range v.Len() {
			filled.Index(i).Set(withListsIn(v.Index(i)))
		}
		return filled
	case reflect.Map:
		filled := reflect.MakeMapWithSize(t, v.Len())
		for key, of := range v.Seq2() {
			filled.SetMapIndex(key, withListsIn(of))
		}
		return filled
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return v
		}
		if v.Kind() == reflect.Interface {
			return withListsIn(v.Elem())
		}
		filled := reflect.New(t.Elem())
		filled.Elem().Set(withListsIn(v.Elem()))
		return filled
	}
	return v
}
