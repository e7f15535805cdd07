/* cuda_roofline.c - see cuda_roofline.h. */
#include "cuda_roofline.h"

#include <math.h>
#include <string.h>

void cf_markdown_head(FILE *f)
{
    fprintf(f, "| part | block | bits | group | type | M | us of each layer | sum | read-only | "
               "share | TB/s | TFLOP/s |\n"
               "|---|---|---|---|---|---|---|---|---|---|---|---|\n");
}

void cf_markdown_row(FILE *f, const cf_row *r)
{
    fprintf(f, "| %s | %s | %d | %lld | %s | %lld |", r->part, r->name, r->bits,
            (long long)r->group, r->bf16 ? "bf16" : "fp16", (long long)r->m);
    for (int i = 0; i < r->n_layers; i++)
        fprintf(f, " %.1f", r->us[i]);
    fprintf(f, " | %.1f |", r->sum);
    if (r->read > 0)
        fprintf(f, " %.1f | %.2f |", r->read, r->read / r->sum);
    else
        fprintf(f, " | |");
    fprintf(f, " %.2f | %.0f |\n", r->bytes / r->sum * 1e-6, r->flops / r->sum * 1e-6);
}

static void json_row(FILE *f, const cf_row *r)
{
    fprintf(f,
            "  {\"part\": \"%s\", \"block\": \"%s\", \"kernel\": \"%s\", \"bits\": %d, \"group\": "
            "%lld, \"type\": \"%s\", \"m\": %lld, "
            "\"us\": %.2f, \"read_us\": %.2f, \"bytes\": %.0f, \"flops\": %.0f, \"layers_us\": [",
            r->part, r->name, r->kernel, r->bits, (long long)r->group, r->bf16 ? "bf16" : "fp16",
            (long long)r->m, r->sum, r->read, r->bytes, r->flops);
    for (int i = 0; i < r->n_layers; i++)
        fprintf(f, "%s%.2f", i ? ", " : "", r->us[i]);
    fprintf(f, "]}");
}

void cf_json(FILE *f, const char *device, double gb_s, double tflops, const cf_row *rows, int n)
{
    const cf_row *peers;
    const int n_peers = cf_peers(&peers);
    fprintf(f, "{\"device\": \"%s\", \"read_gb_s\": %.0f, \"matmul_tflops\": %.0f, \"rows\": [\n",
            device, gb_s, tflops);
    for (int i = 0; i < n + n_peers; i++) {
        json_row(f, i < n ? &rows[i] : &peers[i - n]);
        fprintf(f, "%s\n", i + 1 < n + n_peers ? "," : "");
    }
    fprintf(f, "]}\n");
}

enum { WIDTH = 860, HEIGHT = 520, LEFT = 60, RIGHT = 250, TOP = 40, BOTTOM = 50 };

typedef struct {
    double x0, x1, y0, y1; /* log2 of the axes' ends */
} frame;

static double x_of(const frame *a, double v)
{
    return LEFT + (log2(v) - a->x0) / (a->x1 - a->x0) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const frame *a, double v)
{
    return HEIGHT - BOTTOM - (log2(v) - a->y0) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM);
}

static void text_at(FILE *f, double x, double y, const char *anchor, const char *fill,
                    const char *text)
{
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y,
            anchor, fill, text);
}

static void axes(FILE *f, const frame *a)
{
    char label[32];
    for (int e = (int)a->x0; e <= (int)a->x1; e++) {
        snprintf(label, sizeof label, "%g", ldexp(1, e));
        fprintf(f, "<path d=\"M%.1f %d V%d\" stroke=\"#ddd\"/>\n", x_of(a, ldexp(1, e)), TOP,
                HEIGHT - BOTTOM);
        text_at(f, x_of(a, ldexp(1, e)), HEIGHT - BOTTOM + 16, "middle", "#333", label);
    }
    for (int e = (int)a->y0; e <= (int)a->y1; e++) {
        snprintf(label, sizeof label, "%g", ldexp(1, e));
        fprintf(f, "<path d=\"M%d %.1f H%d\" stroke=\"#ddd\"/>\n", LEFT, y_of(a, ldexp(1, e)),
                WIDTH - RIGHT);
        text_at(f, LEFT - 6, y_of(a, ldexp(1, e)) + 4, "end", "#333", label);
    }
    text_at(f, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12, "middle", "#333", "operations per byte");
    text_at(f, LEFT, TOP - 10, "start", "#333", "TFLOP/s");
}

/* A curve is the rows that share kernel and bits. */
static int same_curve(const cf_row *a, const cf_row *b)
{
    return a->bits == b->bits && strcmp(a->kernel, b->kernel) == 0 &&
           a->group % 128 == b->group % 128 && a->bf16 == b->bf16;
}

static void curve(FILE *f, const frame *a, const char *name, const cf_row *rows, int n, int from,
                  int place)
{
    static const char *const colours[] = {"#c0392b", "#2471a3", "#1e8449", "#b9770e",
                                          "#7d3c98", "#555555", "#17a589", "#d35400"};
    const char *colour = colours[place % (int)(sizeof colours / sizeof *colours)];
    char label[96];
    int points = 0;
    fprintf(f, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" d=\"", colour);
    for (int i = from; i < n; i++)
        if (same_curve(&rows[i], &rows[from]) && strcmp(rows[i].name, name) == 0)
            fprintf(f, "%s%.1f %.1f ", points++ ? "L" : "M", x_of(a, rows[i].flops / rows[i].bytes),
                    y_of(a, rows[i].flops / rows[i].sum * 1e-6));
    fprintf(f, "\"/>\n");
    for (int i = from; i < n; i++)
        if (same_curve(&rows[i], &rows[from]) && strcmp(rows[i].name, name) == 0)
            fprintf(f,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>M = %lld: %.1f "
                    "us</title></circle>\n",
                    x_of(a, rows[i].flops / rows[i].bytes),
                    y_of(a, rows[i].flops / rows[i].sum * 1e-6), colour, (long long)rows[i].m,
                    rows[i].sum);
    snprintf(label, sizeof label, "%s, %d bits", rows[from].kernel, rows[from].bits);
    text_at(f, WIDTH - RIGHT + 12, TOP + 14 + 18 * place, "start", colour, label);
}

static void curves(FILE *f, const frame *a, const char *name, const cf_row *rows, int n, int *place)
{
    for (int i = 0; i < n; i++) {
        int seen = strcmp(rows[i].name, name) != 0;
        for (int j = 0; j < i; j++)
            seen |= strcmp(rows[j].name, name) == 0 && same_curve(&rows[i], &rows[j]);
        if (!seen)
            curve(f, a, name, rows, n, i, (*place)++);
    }
}

void cf_svg(FILE *f, const char *device, const char *name, double gb_s, double tflops,
            const cf_row *rows, int n)
{
    const frame a = {1, 12, -2, 10};
    const double knee = tflops * 1e3 / gb_s;
    char title[200];
    int place = 0;
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            WIDTH, HEIGHT);
    snprintf(title, sizeof title, "%s: products of an %s block; roofs %.0f GB/s and %.0f TFLOP/s",
             device, name, gb_s, tflops);
    text_at(f, WIDTH / 2.0, 18, "middle", "#000", title);
    axes(f, &a);
    fprintf(f,
            "<path fill=\"none\" stroke=\"black\" stroke-width=\"1.5\" d=\"M%.1f %.1f L%.1f %.1f "
            "H%d\"/>\n",
            x_of(&a, 2), y_of(&a, 2 * gb_s * 1e-3), x_of(&a, knee), y_of(&a, tflops),
            WIDTH - RIGHT);
    const cf_row *peers;
    const int n_peers = cf_peers(&peers);
    curves(f, &a, name, rows, n, &place);
    curves(f, &a, name, peers, n_peers, &place);
    fprintf(f, "</svg>\n");
}
