import httpx,threading,time,json,os,subprocess,statistics,random
B="http://127.0.0.1:18765"; c=httpx.Client(base_url=B,timeout=60)
def met():
    d={}
    for l in c.get("/metrics").text.splitlines():
        if l and l[0]!="#":
            k,v=l.rsplit(" ",1); d[k]=float(v)
    return d
def delta(a,b): return {k:b[k]-a.get(k,0) for k in b if b[k]!=a.get(k,0) and "bucket" not in k and "seconds" not in k and "process" not in k}
M=[{"role":"user","content":"Say hi"}]
a=met(); c.post("/v1/chat/completions",json={"model":"smol","messages":M,"n":3,"max_tokens":4}); b=met(); print("n=3",delta(a,b))
a=met()
with c.stream("POST","/api/chat",json={"model":"smol","messages":[{"role":"user","content":"A long story, please"}],"options":{"num_predict":500}}) as r:
    for i,_ in enumerate(r.iter_lines()):
        if i==5: break
time.sleep(.5); b=met(); print("cancel",delta(a,b))
a=met(); c.post("/api/chat",json={"model":"nope","messages":M}); c.post("/api/chat",content=b"x"); b=met(); print("errors",delta(a,b))
a=met(); c.post("/api/embed",json={"model":"mini","input":["a","b"]}); b=met(); print("embed",delta(a,b))
