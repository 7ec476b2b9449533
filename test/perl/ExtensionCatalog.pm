
=pod

=head1 NAME

ExtensionCatalog - all that PostgreSQL's catalogues say of the extension, to compare two installations of it

=head1 SYNOPSIS

  use ExtensionCatalog;

  my @fresh = extension_catalog($node, $dbname);
  my @updated = extension_catalog($node, $dbname, q(CREATE EXTENSION nats_publish VERSION '0.9'; ALTER EXTENSION nats_publish UPDATE));
  is(catalog_difference(\@fresh, \@updated), '');

=head1 DESCRIPTION

A line for each column of each row that describes an object of the extension or a part of one: no catalogue and no column is
named here to be looked at, but a few to be left out. Objects are told by their names and not by their oids, expressions by
their text.

=cut

package ExtensionCatalog;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

our @EXPORT = qw(extension_catalog catalog_difference);

# What is another one each time, is counted by PostgreSQL as it goes, or is in the definitions below, where columns have
# names instead of numbers.
my %LEFT_OUT = (
	pg_attribute => [qw(attnum attcacheoff atthasmissing attmissingval)],
	pg_attrdef => [qw(adnum)],
	pg_class => [qw(relfilenode relpages reltuples relallvisible relallfrozen relnatts relhasindex relhasrules relhastriggers relfrozenxid relminmxid)],
	pg_constraint => [qw(conkey)],
	pg_extension => [qw(extconfig extcondition)],
	pg_index => [qw(indkey indcheckxmin)],
	pg_trigger => [qw(tgattr)]);

my %DEFINITIONS = (
	pg_attrdef => 'pg_get_expr(c.adbin, c.adrelid)',
	pg_attribute => '(SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.attrelid AND a.attnum <= c.attnum AND NOT a.attisdropped)',
	pg_class => q(CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END),
	pg_constraint => 'pg_get_constraintdef(c.oid)',
	pg_extension => q((SELECT string_agg(format('%s %s', config::regclass, condition), ', ' ORDER BY config::regclass::text)
		FROM unnest(c.extconfig, c.extcondition) AS u (config, condition))),
	pg_index => 'pg_get_indexdef(c.indexrelid)',
	pg_policy => q(concat_ws(' CHECK ', pg_get_expr(c.polqual, c.polrelid), pg_get_expr(c.polwithcheck, c.polrelid))),
	pg_proc => q(CASE WHEN c.prokind IN ('f', 'p') THEN pg_get_functiondef(c.oid) END),
	pg_rewrite => 'pg_get_ruledef(c.oid)',
	pg_statistic_ext => 'pg_get_statisticsobjdef(c.oid)',
	pg_trigger => 'pg_get_triggerdef(c.oid)');

# The extension, its members, and what belongs to them: their columns' defaults, indexes, triggers, row types and so on.
my $OBJECTS = <<'END';
CREATE TEMP TABLE objects AS
WITH RECURSIVE object AS (
    SELECT 'pg_extension'::regclass::oid AS classid, oid AS objid FROM pg_extension WHERE extname = 'nats_publish'
    UNION
    SELECT d.classid, d.objid FROM pg_depend d JOIN object o ON (d.refclassid, d.refobjid) = (o.classid, o.objid)
    WHERE d.deptype IN ('e', 'i', 'a')
)
SELECT * FROM object;
END

=pod

=head1 FUNCTIONS

=over

=item extension_catalog($node, $dbname, $sql)

The lines, sorted. The commands, if there are any, are run before, and have not happened after it.

=item catalog_difference(\@ones, \@others)

The lines that are in one of them only, in the manner of diff; '' without any.

=back

=cut

sub extension_catalog
{
	my ($node, $dbname, $sql) = @_;
	my @selects = (_polymorphic_selects(), map { _catalog_select(split /\|/, $_, -1) } split /\n/, $node->safe_psql($dbname, _catalogs()));
	my $lines = $node->safe_psql($dbname, join(";\n", 'BEGIN', $sql // (), $OBJECTS, 'SET LOCAL search_path = pg_catalog; SET LOCAL jit = off; ANALYZE objects',
			'SELECT line FROM (' . join("\nUNION ALL ", @selects) . ') AS l (line)', 'ROLLBACK'));
	# a TOAST table has the oid of its table in its name; 15.20 and its like number each version of a column among its options
	return sort map { s/\bpg_toast_\d+/pg_toast/gr =~ s/"pg_attver=\d+"(, )?//r } split /\n/, $lines;
}

sub catalog_difference
{
	my ($ones, $others) = @_;
	my %count;
	$count{$_}-- foreach @$ones;
	$count{$_}++ foreach @$others;
	return join '', map { ($count{$_} < 0 ? '-' : '+') . "$_\n" } grep { $count{$_} } sort keys %count;
}

# The catalogues of which a row can be of an object: those with oids, and those whose first column is one of another.
# Of each: name, has it oids, its columns that are oids of others (name, catalogue, is it an array), lists without an order (none is as good as an empty one,
# which pg_upgrade leaves where it was), and node trees.
sub _catalogs
{
	return <<'END';
SELECT t.relname, bool_or(a.attname = 'oid') AS has_oids,
    string_agg(concat_ws(' ', a.attname, f.pktable::regclass, f.is_array), ',' ORDER BY a.attnum) FILTER (WHERE f.pktable IS NOT NULL),
    string_agg(a.attname, ',') FILTER (WHERE a.atttypid = 'aclitem[]'::regtype OR a.atttypid = 'text[]'::regtype AND a.attname LIKE '%options'),
    string_agg(a.attname, ',') FILTER (WHERE a.atttypid = 'pg_node_tree'::regtype)
FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0
    LEFT JOIN pg_get_catalog_foreign_keys() f ON f.fktable = t.oid AND f.fkcols = ARRAY[a.attname::text]
WHERE t.relnamespace = 'pg_catalog'::regnamespace AND t.relkind = 'r' AND NOT t.relisshared
    AND t.relname NOT IN ('pg_statistic', 'pg_statistic_ext_data', 'pg_largeobject', 'pg_depend', 'pg_description', 'pg_init_privs', 'pg_seclabel')
GROUP BY t.oid, t.relname
HAVING bool_or(a.attnum = 1 AND (a.attname = 'oid' OR f.pktable IS NOT NULL))
END
}

sub _identity
{
	my ($class, $object, $part) = @_;
	$part //= 0;
	return "CASE WHEN $object <> 0 THEN (SELECT type || ' ' || identity FROM pg_identify_object($class, $object, $part)) END";
}

sub _catalog_select
{
	my ($name, $has_oids, $references, $lists, $trees) = @_;
	my @references = map { [ split / / ] } split /,/, $references;
	my %left_out = map { ($_ => 1) } 'oid', split(/,/, $trees), @{ $LEFT_OUT{$name} // [] };
	my @changed = map { ($_->[0], _reference(@$_)) } grep { !$left_out{ $_->[0] } } @references;
	push @changed, map { ($_, "(SELECT array_agg(i::text ORDER BY i::text) FROM unnest(c.$_) AS i)") } split /,/, $lists;
	push @changed, 'definition', $DEFINITIONS{$name} if $DEFINITIONS{$name};

	# a part, such as a column, is told by what it is of and by what has a name in it
	my ($class, $object) = $has_oids eq 't' ? ($name, 'oid') : @{ $references[0] }[ 1, 0 ];
	my $columns = "to_jsonb(c) - '{" . join(',', sort keys %left_out) . "}'::text[]";
	for (my $i = 0; $i < @changed; $i += 2) { $columns .= " || jsonb_build_object('$changed[$i]', $changed[$i + 1])"; }
	my $part = $name eq 'pg_attribute' ? q( || '.' || c.attname) : '';
	my $live = $name eq 'pg_attribute' ? 'AND NOT c.attisdropped' : '';
	return <<"END";
SELECT concat_ws(' ', '$name', ${\_identity("'$class'::regclass", "c.$object")}$part, j.key, j.value)
FROM $name AS c JOIN objects AS o ON (o.classid, o.objid) = ('$class'::regclass, c.$object)
    CROSS JOIN jsonb_each($columns) AS j
WHERE true $live
END
}

sub _reference
{
	my ($column, $catalog, $is_array) = @_;
	my $class = "'$catalog'::regclass";
	return _identity($class, "c.$column") if $is_array eq 'f';
	return "(SELECT array_agg(${\_identity($class, 'u.id')} ORDER BY u.n) FROM unnest(c.$column\::oid[]) WITH ORDINALITY AS u (id, n))";
}

# Those that are of any catalogue's rows.
sub _polymorphic_selects
{
	my %columns = (
		pg_depend => [ 'classid', 'objid', "concat_ws(' ', c.deptype, ${\_identity('c.refclassid', 'c.refobjid', 'c.refobjsubid')})" ],
		pg_description => [ 'classoid', 'objoid', 'c.description' ],
		pg_seclabel => [ 'classoid', 'objoid', "concat_ws(' ', c.provider, c.label)" ],
		pg_init_privs => [ 'classoid', 'objoid', "concat_ws(' ', c.privtype, (SELECT array_agg(i::text ORDER BY i::text) FROM unnest(c.initprivs) AS i))" ]);
	return map {
		my ($class, $object, $value) = @{ $columns{$_} };
		"SELECT concat_ws(' ', '$_', ${\_identity(\"c.$class\", \"c.$object\", 'c.objsubid')}, to_jsonb($value))
			FROM $_ AS c JOIN objects AS o ON (o.classid, o.objid) = (c.$class, c.$object)"
	} sort keys %columns;
}

1;
